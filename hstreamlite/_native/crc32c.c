/* CRC-32C: three interleaved streams of the SSE4.2 instruction, or slices of eight bytes by table.
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
 * as well. All tables are filled when the module is loaded, before any thread can call.
 *
 * Source: Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", Intel
 * 2011; Kounavis and Berry, "A Systematic Approach to Building High Performance Software-based CRC
 * Generators", 2005 (the slices).
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

#else

static void fill_shifts(void)
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

#endif

static uint32_t (*fastest)(uint32_t, const void *, size_t) = hsl_crc32c_portable;

__attribute__((constructor)) static void choose(void)
{
    fill_slices();
    fill_shifts();
    if (hsl_crc32c_has_sse42())
        fastest = hsl_crc32c_sse42;
}

uint32_t hsl_crc32c(uint32_t crc, const void *data, size_t len)
{
    return fastest(crc, data, len);
}
