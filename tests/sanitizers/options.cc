#include <sys/syscall.h>
#include <unistd.h>

// Linked into every program of a build with sanitizers: how they behave and where they report.
// Compiled in, so that no test that starts a program with an environment of its own can lose a
// report. Runs before the C library is ready and is not instrumented: plain system calls and
// constants alone.
namespace {

#define RUNBUS_REPORTS "log_exe_name=1:log_path=" RUNBUS_SANITIZER_REPORTS "/report:"

// In a sandbox there is no folder of ours: there a report goes to stderr, which is the sandbox's
// log, and the worker logs what it says when it finds the sandbox dead.
const char* choose(const char* with_folder, const char* without) {
  return ::syscall(SYS_access, RUNBUS_SANITIZER_REPORTS, W_OK) == 0 ? with_folder : without;
}

// A small quarantine: tests hold processes to bounds of memory.
#define RUNBUS_ASAN                                                       \
  "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1" \
  ":quarantine_size_mb=8:thread_local_quarantine_size_kb=64:malloc_context_size=12"
#define RUNBUS_UBSAN "print_stacktrace=1:halt_on_error=1"
#define RUNBUS_TSAN "halt_on_error=0:second_deadlock_stack=1:history_size=4"

}  // namespace

extern "C" {

const char* __asan_default_options();
const char* __asan_default_options() { return choose(RUNBUS_REPORTS RUNBUS_ASAN, RUNBUS_ASAN); }

const char* __ubsan_default_options();
const char* __ubsan_default_options() { return choose(RUNBUS_REPORTS RUNBUS_UBSAN, RUNBUS_UBSAN); }

const char* __tsan_default_options();
const char* __tsan_default_options() { return choose(RUNBUS_REPORTS RUNBUS_TSAN, RUNBUS_TSAN); }

// libzmq and its cryptography are not instrumented: how its threads hand messages to each other
// cannot be seen, so what it reads and writes for them is not looked at. A child of _Fork(), which
// ThreadSanitizer does not know, is alone with its copy.
const char* __tsan_default_suppressions();
const char* __tsan_default_suppressions() {
  return "called_from_lib:libzmq.so\n"
         "called_from_lib:libsodium.so\n"
         "race:services/session/launch.cc\n";
}

}  // extern "C"
