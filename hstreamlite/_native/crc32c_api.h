/* CRC-32C (Castagnoli), the checksum of everything stored.
 *
 * The checksum of nothing is 0; passing the checksum of what precedes as crc continues it, so a
 * buffer may be fed in any pieces. data may be NULL where len is 0. No allocation, no state; any
 * thread may call.
 */
uint32_t hsl_crc32c(uint32_t crc, const void *data, size_t len);

/* The variants behind it, for tests: hsl_crc32c is the last of them that the processor has what it
 * takes for, which the has_ functions tell; the others may be called only then. */
uint32_t hsl_crc32c_portable(uint32_t crc, const void *data, size_t len);
uint32_t hsl_crc32c_sse42(uint32_t crc, const void *data, size_t len);
int hsl_crc32c_has_sse42(void);
uint32_t hsl_crc32c_folded(uint32_t crc, const void *data, size_t len);
int hsl_crc32c_has_folded(void);
