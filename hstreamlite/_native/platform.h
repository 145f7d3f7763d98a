/* Which system calls the core may use; included before any header of the system.
 *
 * HSL_LINUX: what Linux has beyond POSIX. Everywhere else, and on Linux when HSL_PORTABLE asks for
 * it, the headers declare POSIX and flock only, so that code which needs more does not compile.
 */
#ifndef HSL_PLATFORM_H
#define HSL_PLATFORM_H

#if defined __linux__ && !defined HSL_PORTABLE
#define HSL_LINUX
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#else
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define _DEFAULT_SOURCE /* flock of the C libraries of Linux */
#define _DARWIN_C_SOURCE /* flock and F_FULLFSYNC of macOS */
#endif

#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif

#endif
