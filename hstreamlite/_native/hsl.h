/* Common header of the native core; includes every declaration file. */
#ifndef HSL_H
#define HSL_H

#include "platform.h"

#include <stddef.h>
#include <stdint.h>

#include "alloc.h"
#include "alloc_api.h"
#include "io_api.h"
#include "crc32c_api.h"
#include "codec_api.h"
#include "load_api.h"
#include "ackmap_api.h"
#include "keytab_api.h"
#include "log_api.h"
#include "meter_api.h"
#include "regroup_api.h"
#include "copy_api.h"
#include "inspect_api.h"
#include "module_api.h"
#include "simfs_api.h"
#include "simcrash_api.h"

#endif
