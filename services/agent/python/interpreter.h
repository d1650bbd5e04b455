#pragma once

#include <sys/types.h>

// What the module calls of the interpreter that has loaded it: functions of Python's stable ABI,
// and those that C code which forks has to call. Its headers are not needed for that.
extern "C" {
struct PyObject;
void PyOS_BeforeFork();
void PyOS_AfterFork_Child();
PyObject* Py_BuildValue(const char* format, ...);
PyObject* PyBytes_FromStringAndSize(const char* bytes, ssize_t size);
PyObject* PyUnicode_DecodeFSDefault(const char* text);
}
