/* Adds the fast functions and the record types to the extension module whose address is given.
 * Called once at import; returns 0, or -1 with a Python exception set by the caller's check. */
int hsl_module_install(void *module);
