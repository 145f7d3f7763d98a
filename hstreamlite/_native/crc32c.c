/* CRC-32C: folding by carry-less products of 64 bytes, three interleaved streams of the SSE4.2
 * instruction, or slices of eight bytes by table; the first that the processor has.
 *
 * The crc32 instruction takes one word a cycle but answers after three, so one chain of them
 * leaves two thirds of the unit idle. A block is therefore cut in three stripes A, B, C of w words
 * each, and three chains run side by side. Then A has to be moved past the 2w words and B past the
 * w words that follow it: a multiplication by x^(128w) and x^(64w) modulo the polynomial. With
 * bits reflected, a carry-less product of two 32-bit values is the product times x, and feeding it
 * to the crc32 instruction as a word multiplies by x^32 more and reduces. So with the constant
 * shift_past[n] = x^(64n - 33) the two products are just XORed into the last word of C.
 *
 * Stripes shrink with what is left, down to SMALL bytes, so that a record of a hundred bytes gains
 * as well.
 *
 * Folding: 16 bytes, a polynomial of degree 127, are moved past n bits by two products of 64 bits,
 * with x^n and x^(n+64) modulo the polynomial, and XORed into the 16 bytes there. Four registers of
 * four such lanes each fold past 256 bytes at a time; what is left are 16 bytes with the same
 * remainder as all before them, for the instruction. The product of two reflected values of 64 bits
 * is the product times x, so the constants are powers less by one, in the upper half of a word.
 *
 * All tables are filled when the module is loaded, before any thread can call.
 *
 * Source: Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", Intel
 * 2011, and "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009
 * (folding); Kounavis and Berry, "A Systematic Approach to Building High Performance Software-based
 * CRC Generators", 2005 (the slices).
 */
#include "hsl.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as little-endian");

#define POLYNOMIAL UINT32_C(0x82f63b78) /* 0x1edc6f41 with its bits reflected */

static uint32_t slices[8][256];

static uint32_t times_x(uint32_t crc)
{
    return (crc >> 1) ^ (POLYNOMIAL & (0u - (crc & 1u)));
}

static void fill_slices(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = times_x(crc);
        slices[0][byte] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = slices[slice - 1][byte];
            slices[slice][byte] = slices[0][crc & 0xff] ^ (crc >> 8);
        }
}

static uint64_t word_at(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

uint32_t hsl_crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    crc = ~crc;
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t word = word_at(p) ^ crc;
        crc = slices[7][word & 0xff] ^ slices[6][word >> 8 & 0xff] ^
              slices[5][word >> 16 & 0xff] ^ slices[4][word >> 24 & 0xff] ^
              slices[3][word >> 32 & 0xff] ^ slices[2][word >> 40 & 0xff] ^
              slices[1][word >> 48 & 0xff] ^ slices[0][word >> 56];
    }
    for (; len > 0; len--, p++)
        crc = slices[0][(crc ^ *p) & 0xff] ^ (crc >> 8);
    return ~crc;
}

#if defined(__x86_64__) && !defined(HSL_PORTABLE)

#include <cpuid.h>
#include <immintrin.h>

#if defined(__clang__) && __clang_major__ >= 14
#define WITH_CRC32 __attribute__((target("sse4.2,crc32,pclmul")))
#else /* part of sse4.2, and unknown as a feature of its own */
#define WITH_CRC32 __attribute__((target("sse4.2,pclmul")))
#endif

#define STRIPE_WORDS_MAX 256u
#define SMALL 72u /* Below three words a stripe, the combining costs more than it saves. */

static uint32_t shift_past[2 * STRIPE_WORDS_MAX + 1];

static void fill_shifts(void)
{
    uint32_t power = 1; /* x^31: the top power is the lowest bit */
    for (size_t words = 1; words <= 2 * STRIPE_WORDS_MAX; words++) {
        shift_past[words] = power;
        for (int bit = 0; bit < 64; bit++)
            power = times_x(power);
    }
}

WITH_CRC32 static uint64_t shifted(uint64_t crc, size_t words)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)crc),
                                           _mm_cvtsi64_si128(shift_past[words]), 0);
    return (uint64_t)_mm_cvtsi128_si64(product);
}

WITH_CRC32 uint32_t hsl_crc32c_sse42(uint32_t start, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t crc = ~start;
    while (len >= SMALL) {
        size_t words = len / 24 < STRIPE_WORDS_MAX ? len / 24 : STRIPE_WORDS_MAX;
        size_t stripe = words * 8;
        uint64_t b = 0, c = 0;
        const uint8_t *last = p + stripe - 8;
        for (; p < last; p += 8) {
            crc = _mm_crc32_u64(crc, word_at(p));
            b = _mm_crc32_u64(b, word_at(p + stripe));
            c = _mm_crc32_u64(c, word_at(p + 2 * stripe));
        }
        crc = _mm_crc32_u64(crc, word_at(p));
        b = _mm_crc32_u64(b, word_at(p + stripe));
        uint64_t moved = shifted(crc, 2 * words) ^ shifted(b, words);
        crc = _mm_crc32_u64(c, word_at(p + 2 * stripe) ^ moved);
        p += 8 + 2 * stripe;
        len -= 3 * stripe;
    }
    for (; len >= 8; len -= 8, p += 8)
        crc = _mm_crc32_u64(crc, word_at(p));
    uint32_t rest = (uint32_t)crc;
    if (len & 4) {
        uint32_t four;
        memcpy(&four, p, sizeof four);
        rest = _mm_crc32_u32(rest, four);
        p += 4;
    }
    if (len & 2) {
        uint16_t two;
        memcpy(&two, p, sizeof two);
        rest = _mm_crc32_u16(rest, two);
        p += 2;
    }
    if (len & 1)
        rest = _mm_crc32_u8(rest, *p);
    return ~rest;
}

int hsl_crc32c_has_sse42(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2) && (c & bit_PCLMUL);
}

#define WITH_FOLDING __attribute__((target("avx512f,vpclmulqdq,sse4.2,pclmul")))

#define FOLDED 512u /* bytes; fewer do not pay for what it takes to begin and end */

/* x^n and x^(n+64) less one power, for n the bits of the distances that are folded past. */
static uint64_t past_128[2], past_512[2], past_2048[2];

static uint64_t fold_constant(unsigned power)
{
    uint32_t value = UINT32_C(1) << 31; /* x^0 */
    while (power-- > 0)
        value = times_x(value);
    return (uint64_t)value << 32;
}

static void fill_folds(uint64_t past[2], unsigned bits)
{
    past[0] = fold_constant(bits + 63);
    past[1] = fold_constant(bits - 1);
}

WITH_FOLDING static inline __m512i fold_lanes(__m512i lanes, __m512i past, __m512i into)
{
    __m512i low = _mm512_clmulepi64_epi128(lanes, past, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(lanes, past, 0x11);
    return _mm512_ternarylogic_epi64(low, high, into, 0x96);
}

WITH_FOLDING static inline __m128i fold_one(__m128i lane, const uint64_t past[2], __m128i into)
{
    __m128i by = _mm_loadu_si128((const __m128i *)(const void *)past);
    __m128i low = _mm_clmulepi64_si128(lane, by, 0x00);
    __m128i high = _mm_clmulepi64_si128(lane, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), into);
}

WITH_FOLDING static inline __m512i lanes_at(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

WITH_FOLDING static inline __m512i lanes_past(const uint64_t past[2])
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)past));
}

WITH_FOLDING uint32_t hsl_crc32c_folded(uint32_t start, const void *data, size_t len)
{
    if (len < FOLDED)
        return hsl_crc32c_sse42(start, data, len);
    const uint8_t *p = data, *end = p + len;
    __m512i first = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~start));
    __m512i a = _mm512_xor_si512(lanes_at(p), first), b = lanes_at(p + 64);
    __m512i c = lanes_at(p + 128), d = lanes_at(p + 192), past = lanes_past(past_2048);
    for (p += 256; end - p >= 256; p += 256) {
        a = fold_lanes(a, past, lanes_at(p));
        b = fold_lanes(b, past, lanes_at(p + 64));
        c = fold_lanes(c, past, lanes_at(p + 128));
        d = fold_lanes(d, past, lanes_at(p + 192));
    }
    past = lanes_past(past_512);
    b = fold_lanes(a, past, b);
    c = fold_lanes(b, past, c);
    d = fold_lanes(c, past, d);
    for (; end - p >= 64; p += 64)
        d = fold_lanes(d, past, lanes_at(p));
    __m128i lane = _mm512_castsi512_si128(d);
    lane = fold_one(lane, past_128, _mm512_extracti32x4_epi32(d, 1));
    lane = fold_one(lane, past_128, _mm512_extracti32x4_epi32(d, 2));
    lane = fold_one(lane, past_128, _mm512_extracti32x4_epi32(d, 3));
    uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(lane));
    crc = _mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(lane, 1));
    return hsl_crc32c_sse42(~(uint32_t)crc, p, (size_t)(end - p));
}

int hsl_crc32c_has_folded(void)
{
    __builtin_cpu_init();
    return hsl_crc32c_has_sse42() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("vpclmulqdq");
}

static void fill_tables(void)
{
    fill_shifts();
    fill_folds(past_128, 128);
    fill_folds(past_512, 512);
    fill_folds(past_2048, 2048);
}

#else

static void fill_tables(void)
{
}

uint32_t hsl_crc32c_sse42(uint32_t crc, const void *data, size_t len)
{
    return hsl_crc32c_portable(crc, data, len);
}

int hsl_crc32c_has_sse42(void)
{
    return 0;
}

uint32_t hsl_crc32c_folded(uint32_t crc, const void *data, size_t len)
{
    return hsl_crc32c_portable(crc, data, len);
}

int hsl_crc32c_has_folded(void)
{
    return 0;
}

#endif

static uint32_t (*fastest)(uint32_t, const void *, size_t) = hsl_crc32c_portable;

__attribute__((constructor)) static void choose(void)
{
    fill_slices();
    fill_tables();
    if (hsl_crc32c_has_sse42())
        fastest = hsl_crc32c_sse42;
    if (hsl_crc32c_has_folded())
        fastest = hsl_crc32c_folded;
}

uint32_t hsl_crc32c(uint32_t crc, const void *data, size_t len)
{
    return fastest(crc, data, len);
}
