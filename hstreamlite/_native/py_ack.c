#include "hsl_py.h"
int hsl_py_ack_install(PyObject *module) { (void)module; return 0; }
