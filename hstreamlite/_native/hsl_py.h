/* Joints between the files that include Python.h (py_*.c); nothing else may include it. */
#ifndef HSL_PY_H
#define HSL_PY_H

#include <Python.h>

#include "hsl.h"

/* Each py_*.c adds its types and functions to the module; 0, or -1 with an exception set. */
int hsl_py_records_install(PyObject *module);
int hsl_py_ack_install(PyObject *module);
int hsl_py_log_install(PyObject *module);

#endif
