#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "services/agent/node/fork.h"
#include "services/agent/node/node_api.h"
#include "services/agent/node/threads.h"
#include "services/agent/parent/job.h"
#include "services/agent/parent/serve.h"

// The native half of the warm Node.js processes, for parent.js, which says what it calls: an addon
// that is loaded by LD_PRELOAD as well (threads.h), without a library.
namespace runbus::agent {
namespace {

constexpr long kRehearsalPollNanoseconds = 5'000'000;
constexpr int kRehearsalPolls = 4'000;

int job_socket = -1;
int pipe_end = -1;
unsigned long long loaded_at_start = 0;

// How many shared objects were ever loaded.
unsigned long long loaded() {
  unsigned long long count = 0;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        *static_cast<unsigned long long*>(result) = info->dlpi_adds;
        return 1;
      },
      &count);
  return count;
}

void become_child(napi_env env) {
  part_from_parent();
  uv_loop_s* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != 0 || uv_loop_fork(loop) != 0) {
    ::_exit(1);
  }
  inherit_threads();
}

// prepare(): the last thing before the first fork.
napi_value on_prepare(napi_env, napi_callback_info__*) {
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  settle_threads();
  prepare_to_fork();
  return nullptr;
}

// rehearse(): forks a process that is to go on to its end like a spare that got its job: true
// there. In the parent false, once it has ended well; else the parent ends.
napi_value on_rehearse(napi_env env, napi_callback_info__*) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  napi_value result = nullptr;
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (::getppid() != parent) {
      ::_exit(1);
    }
    become_child(env);
    loaded_at_start = loaded();
    napi_get_boolean(env, true, &result);
    return result;
  }
  int status = -1;
  for (int i = 0; i < kRehearsalPolls && ::waitpid(child, &status, WNOHANG) == 0; ++i) {
    const timespec pause = {0, kRehearsalPollNanoseconds};
    ::nanosleep(&pause, nullptr);
  }
  if (status != 0) {
    ::kill(child, SIGKILL);
    ::_exit(1);
  }
  napi_get_boolean(env, false, &result);
  return result;
}

// serve(): returns in the spares alone.
napi_value on_serve(napi_env env, napi_callback_info__*) {
  job_socket = serve(Descriptors::kOurs);
  become_child(env);
  return nullptr;
}

// Strings each ended by a zero byte, behind their number. They become the environment where they
// are, in their order, as the kernel hands it to a new program.
void take_environment(char* list, std::size_t size) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < size; ++i) {
    count += list[i] == '\0' ? 1 : 0;
  }
  auto** const variables = static_cast<char**>(::calloc(count + 1, sizeof(char*)));
  if (variables == nullptr || count == 0) {
    ::_exit(1);
  }
  char* text = list;
  for (std::size_t i = 0; i < count - 1; ++i) {
    text += std::strlen(text) + 1;
    variables[i] = text;
  }
  environ = variables;
}

// takeJob(): waits for the job and takes its environment; returns its arguments.
napi_value on_take_job(napi_env env, napi_callback_info__*) {
  const Job job = receive_job(job_socket, Descriptors::kOurs);
  take_environment(job_strings + job.arguments, job.size - job.arguments);
  loaded_at_start = loaded();
  napi_value result = nullptr;
  napi_create_string_utf8(env, job_strings, job.arguments, &result);
  return result;
}

// openPipe(): a pipe's end for writing, which is the caller's; the other one is open until
// closePipe().
napi_value on_open_pipe(napi_env env, napi_callback_info__*) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return nullptr;
  }
  pipe_end = ends[0];
  napi_value result = nullptr;
  napi_create_uint32(env, static_cast<std::uint32_t>(ends[1]), &result);
  return result;
}

napi_value on_close_pipe(napi_env, napi_callback_info__*) {
  ::close(pipe_end);
  return nullptr;
}

// turn(): has the event loop do what is due.
napi_value on_turn(napi_env env, napi_callback_info__*) {
  constexpr int kNoWait = 2;
  uv_loop_s* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) == 0) {
    uv_run(loop, kNoWait);
  }
  return nullptr;
}

// random(): 31 bits, none of which any other process knows.
napi_value on_random(napi_env env, napi_callback_info__*) {
  std::uint32_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    ::_exit(1);
  }
  napi_value result = nullptr;
  napi_create_uint32(env, number >> 1U, &result);
  return result;
}

// leave(): ends the process with 0. All that its program could see of an end has been; what is left
// is to give back memory, which the kernel does faster. Returns if a native module was loaded,
// which may have something to do at the end.
napi_value on_leave(napi_env, napi_callback_info__*) {
  if (loaded() == loaded_at_start) {
    ::_exit(0);
  }
  return nullptr;
}

}  // namespace
}  // namespace runbus::agent

extern "C" __attribute__((visibility("default"))) napi_value napi_register_module_v1(
    napi_env env, napi_value exports) {
  using namespace runbus::agent;
  struct Function {
    const char* name;
    napi_callback callback;
  };
  const Function functions[] = {
      {"prepare", on_prepare},    {"rehearse", on_rehearse},    {"serve", on_serve},
      {"takeJob", on_take_job},   {"random", on_random},        {"leave", on_leave},
      {"openPipe", on_open_pipe}, {"closePipe", on_close_pipe}, {"turn", on_turn}};
  for (const Function& function : functions) {
    napi_value value = nullptr;
    if (napi_create_function(env, function.name, std::strlen(function.name), function.callback,
                             nullptr, &value) != 0 ||
        napi_set_named_property(env, exports, function.name, value) != 0) {
      return nullptr;  // then parent.js finds that it is not there
    }
  }
  return exports;
}
