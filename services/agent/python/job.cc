#include "services/agent/python/job.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>

#include "services/agent/parent/decimal.h"
#include "services/agent/parent/job.h"
#include "services/agent/python/interpreter.h"
#include "services/agent/python/module.h"

namespace runbus::agent {
namespace {

constexpr std::size_t kMostSource = 64 << 10;

char source[kMostSource];
char path[PATH_MAX];
char real_path[PATH_MAX];

// ---- the usual run --------------------------------------------------------------------------

// Not fstat(), for which old C libraries have no function. `type` 0 when it cannot be told.
struct Kind {
  unsigned type = 0;
  bool is_null_device = false;
};
Kind kind_of(int fd) {
  struct statx status;
  if (::syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &status) != 0) {
    return {};
  }
  const unsigned type = status.stx_mode & static_cast<unsigned>(S_IFMT);
  return {type, type == S_IFCHR && status.stx_rdev_major == 1 && status.stx_rdev_minor == 3};
}

// Behind the end of `text`, or `end`.
const char* behind(const char* text, const char* end) {
  const void* const zero = std::memchr(text, 0, static_cast<std::size_t>(end - text));
  return zero == nullptr ? end : static_cast<const char*>(zero) + 1;
}

// The script, with the arguments behind it, of a job with the usual program and environment whose
// script is a name in its directory. Null of any other.
const char* usual_script(const Job& job, const RunbusUsual& usual) {
  const char* const end = job_strings + job.arguments;
  if (job.arguments == 0 || end[-1] != '\0' || job.size - job.arguments != usual.environment_size ||
      std::memcmp(end, usual.environment, usual.environment_size) != 0) {
    return nullptr;
  }
  const char* const program = behind(job_strings, end);  // behind the number of arguments
  const char* const script = program < end ? behind(program, end) : end;
  const bool is_name = script < end && script[0] != '\0' && script[0] != '-' &&
                       std::strchr(script, '/') == nullptr && std::strcmp(script, ".") != 0 &&
                       std::strcmp(script, "..") != 0;
  return is_name && std::strcmp(program, usual.program) == 0 ? script : nullptr;
}

// `path`: the script's, absolute.
bool find_path(const char* script) {
  if (::getcwd(path, sizeof(path)) == nullptr || path[0] != '/') {
    return false;
  }
  const std::size_t size = path[1] == '\0' ? 0 : std::strlen(path);
  if (size + 1 + std::strlen(script) >= sizeof(path)) {
    return false;
  }
  path[size] = '/';
  std::strcpy(path + size + 1, script);
  return true;
}

// `real_path`: the folder of an open file.
bool find_folder(int file) {
  char name[32] = "/proc/self/fd/";
  char digits[kMostDigits];
  std::strcpy(name + std::strlen(name), to_decimal(file, digits));
  const ssize_t size = ::readlink(name, real_path, sizeof(real_path) - 1);
  if (size <= 0 || real_path[0] != '/') {
    return false;
  }
  real_path[size] = '\0';
  char* const slash = std::strrchr(real_path, '/');
  slash[slash == real_path ? 1 : 0] = '\0';
  return true;
}

// `source`: all of a file. -1 when it is too large, cannot be read, or has what no source has.
ssize_t read_source(int file) {
  std::size_t size = 0;
  while (size < kMostSource) {
    const ssize_t got = ::read(file, source + size, kMostSource - size);
    if (got == 0) {
      return std::memchr(source, 0, size) == nullptr ? static_cast<ssize_t>(size) : -1;
    }
    if (got < 0 && errno != EINTR) {
      break;
    }
    size += got > 0 ? static_cast<std::size_t>(got) : 0;
  }
  return -1;
}

ssize_t read_script(const char* script) {
  const int file = ::open(script, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) {
    return -1;
  }
  const bool found = kind_of(file).type == S_IFREG && find_folder(file);
  const ssize_t size = found ? read_source(file) : -1;
  ::close(file);
  return size;
}

PyObject* to_python(const Job& job, const RunbusUsual& usual) {
  const Kind input = kind_of(0);
  const char* const script = usual_script(job, usual);
  ssize_t size = -1;
  if (script != nullptr && (input.type == S_IFIFO || input.is_null_device) &&
      kind_of(1).type == S_IFIFO && kind_of(2).type == S_IFIFO && ::access(usual.site, F_OK) != 0 &&
      find_path(script)) {
    size = read_script(script);
  }
  if (size < 0) {
    return PyBytes_FromStringAndSize(job_strings, static_cast<ssize_t>(job.size));
  }
  const char* const end = job_strings + job.arguments;
  const char* const arguments = behind(script, end);
  return Py_BuildValue(
      "(NNNNNi)", PyBytes_FromStringAndSize(source, size), PyUnicode_DecodeFSDefault(path),
      PyUnicode_DecodeFSDefault(real_path), PyUnicode_DecodeFSDefault(script),
      PyBytes_FromStringAndSize(arguments, end - arguments), input.type == S_IFIFO ? 1 : 0);
}

}  // namespace

PyObject* take_job(int job, const RunbusUsual& usual) {
  return to_python(receive_job(job, Descriptors::kAll), usual);
}

}  // namespace runbus::agent

extern "C" __attribute__((visibility("default"))) PyObject* runbus_rehearse(
    int source_file, const RunbusUsual* usual) {
  using namespace runbus::agent;
  const pid_t child = ::fork();
  if (child != 0) {
    return Py_BuildValue("i", child);
  }
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  int output[2];
  if (::dup2(::open("/dev/null", O_RDONLY), 0) < 0 || ::pipe(output) != 0 ||
      ::dup2(output[1], 1) < 0 || ::dup2(output[1], 2) < 0 || ::chdir("/proc/self/fd") != 0) {
    ::_exit(1);
  }
  char* end = job_strings;
  const auto add = [&end](const void* text, std::size_t size) {
    std::memcpy(end, text, size);
    end += size;
  };
  add("2", 2);
  add(usual->program, std::strlen(usual->program) + 1);
  char digits[kMostDigits];
  const char* const name = to_decimal(source_file, digits);
  add(name, std::strlen(name) + 1);
  const auto arguments = static_cast<std::size_t>(end - job_strings);
  add(usual->environment, usual->environment_size);
  PyOS_AfterFork_Child();
  return to_python({static_cast<std::size_t>(end - job_strings), arguments}, *usual);
}
