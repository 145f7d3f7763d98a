/* Declared by crc32c.c. */
