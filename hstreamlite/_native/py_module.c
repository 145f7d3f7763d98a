/* Installation of the fast functions into the module that cffi built. */
#include "hsl_py.h"

int hsl_module_install(void *module)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *m = (PyObject *)module;
    int rc = 0;
    if (hsl_py_records_install(m) < 0 || hsl_py_codec_install(m) < 0 || hsl_py_ack_install(m) < 0 ||
        hsl_py_keytab_install(m) < 0 || hsl_py_gate_install(m) < 0 || hsl_py_hatch_install(m) < 0 ||
        hsl_py_keyhatch_install(m) < 0 || hsl_py_saver_install(m) < 0 ||
        hsl_py_excerpt_install(m) < 0 || hsl_py_batch_install(m) < 0 ||
        hsl_py_log_install(m) < 0 || hsl_py_cursor_install(m) < 0 || hsl_py_wire_install(m) < 0 ||
        hsl_py_signal_install(m) < 0) {
        PyErr_WriteUnraisable(m); /* not reached: Python lacks memory */
        rc = -1;                  /* not reached: as the line before */
    }
    PyGILState_Release(gil);
    return rc;
}
