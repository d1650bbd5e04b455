#include "services/agent/node/threads.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "services/agent/parent/decimal.h"

namespace runbus::agent {
namespace {

constexpr int kMostThreads = 64;
constexpr std::size_t kLeastStack = 1 << 20;
constexpr std::size_t kGuard = 4096;
constexpr long kPollNanoseconds = 2'000'000;
constexpr int kPolls = 5'000;
constexpr int kQuietPolls = 5;  // in a row

// What __builtin_setjmp() needs.
using Place = void* [5];

// At the beginning of a pthread_cond_t, which is zero when it was not initialized by a function.
struct Condition {
  std::uint32_t turn;
  std::uint32_t monotonic;  // the clock of its time limits
};
static_assert(sizeof(Condition) <= sizeof(pthread_cond_t));

struct Thread {
  void* (*start)(void*) = nullptr;
  void* argument = nullptr;
  pthread_t id{};         // in the parent, by which the program knows it
  pthread_t successor{};  // in the child, if it went on there
  pid_t task = 0;
  bool waits = false;  // at `waiting`, on `condition`
  const Condition* condition = nullptr;
  bool ended = false;
  bool goes_on = false;
  bool joined = false;
  void* result = nullptr;
  Place waiting{};
  Place native{};  // of the successor: where it came from
};

Thread threads[kMostThreads];
int thread_count = 0;
volatile bool is_child = false;
__thread Thread* own __attribute__((tls_model("initial-exec"))) = nullptr;

// The C library's function, which the one of this object stands before.
template <class Function>
Function original(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
using Join = int (*)(pthread_t, void**);

template <class T>
T load(const T& value) {
  return __atomic_load_n(&value, __ATOMIC_SEQ_CST);
}

template <class T>
void store(T& place, T value) {
  __atomic_store_n(&place, value, __ATOMIC_SEQ_CST);
}

void* run(void* argument) {
  auto* const thread = static_cast<Thread*>(argument);
  own = thread;
  store(thread->task, static_cast<pid_t>(::syscall(SYS_gettid)));
  void* const result = thread->start(thread->argument);
  if (is_child) {
    // The frames below are those of a thread that is not there.
    thread->result = result;
    __builtin_longjmp(thread->native, 1);
  }
  store(thread->ended, true);
  return result;
}

// A function of its own: __builtin_longjmp() may not be in one with __builtin_setjmp().
__attribute__((noinline)) void go_on(Thread* thread) { __builtin_longjmp(thread->waiting, 1); }

void* succeed(void* argument) {
  own = static_cast<Thread*>(argument);
  if (__builtin_setjmp(own->native) == 0) {
    go_on(own);
  }
  return own->result;
}

// ---- in the child: those that have not gone on yet ---------------------------------------------

pthread_mutex_t inheritance = PTHREAD_MUTEX_INITIALIZER;
int left_behind = 0;

// With the lock.
void resume(Thread& thread) {
  const auto create = original<Create>("pthread_create");
  if (create(&thread.successor, nullptr, succeed, &thread) != 0) {
    constexpr char kWords[] = "runbus: no thread can be made\n";
    [[maybe_unused]] const ssize_t told = ::write(STDERR_FILENO, kWords, sizeof(kWords) - 1);
    ::abort();
  }
  thread.goes_on = true;
  store(left_behind, left_behind - 1);
}

template <class Wanted>
void resume_those(Wanted wanted) {
  if (load(left_behind) == 0) {
    return;
  }
  ::pthread_mutex_lock(&inheritance);
  for (int i = 0; i < thread_count; ++i) {
    if (threads[i].waits && !threads[i].goes_on && wanted(threads[i])) {
      resume(threads[i]);
    }
  }
  ::pthread_mutex_unlock(&inheritance);
}

bool give_stack(pthread_attr_t& attributes) {
  std::size_t size = 0;
  ::pthread_attr_getstacksize(&attributes, &size);
  size = size < kLeastStack ? kLeastStack : size;
  void* const stack = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  return stack != MAP_FAILED && ::mprotect(stack, kGuard, PROT_NONE) == 0 &&
         ::pthread_attr_setstack(&attributes, stack, size) == 0;
}

// ---- condition variables --------------------------------------------------------------------

Condition& at(pthread_cond_t* condition) { return *reinterpret_cast<Condition*>(condition); }

long sleep_on(std::uint32_t& turn, std::uint32_t seen, bool monotonic, const timespec* limit) {
  const int operation = FUTEX_WAIT_BITSET | (monotonic ? 0 : FUTEX_CLOCK_REALTIME);
  return ::syscall(SYS_futex, &turn, operation, seen, limit, nullptr, FUTEX_BITSET_MATCH_ANY);
}

int wait(pthread_cond_t* place, pthread_mutex_t* mutex, bool monotonic, const timespec* limit) {
  Condition& condition = at(place);
  const std::uint32_t seen = load(condition.turn);
  ::pthread_mutex_unlock(mutex);
  Thread* const thread = own;
  if (thread != nullptr && !is_child && limit == nullptr) {
    // Its successor comes out of this a second time, and sleeps on the same turn.
    thread->condition = &condition;
    if (__builtin_setjmp(thread->waiting) == 0) {
      store(thread->waits, true);
    }
  }
  const bool late = sleep_on(condition.turn, seen, monotonic, limit) != 0 && errno == ETIMEDOUT;
  if (thread != nullptr && !is_child) {
    store(thread->waits, false);
  }
  ::pthread_mutex_lock(mutex);
  return late ? ETIMEDOUT : 0;
}

int wake(pthread_cond_t* place, int count) {
  Condition& condition = at(place);
  __atomic_add_fetch(&condition.turn, 1, __ATOMIC_SEQ_CST);
  // These find that it is another turn.
  resume_those([&condition](const Thread& thread) { return thread.condition == &condition; });
  ::syscall(SYS_futex, &condition.turn, FUTEX_WAKE, count, nullptr, nullptr, 0);
  return 0;
}

// ---- quiet ----------------------------------------------------------------------------------

// Whether the kernel says that it sleeps.
bool is_asleep(pid_t task) {
  char name[64] = "/proc/self/task/";
  char digits[kMostDigits];
  std::strcpy(name + std::strlen(name), to_decimal(task, digits));
  std::strcpy(name + std::strlen(name), "/stat");
  const int file = ::open(name, O_RDONLY | O_CLOEXEC);
  char text[256];
  const ssize_t size = file < 0 ? -1 : ::read(file, text, sizeof(text) - 1);
  ::close(file);
  if (size <= 0) {
    return false;
  }
  text[size] = '\0';
  const char* const name_end = std::strrchr(text, ')');
  return name_end != nullptr && name_end[1] == ' ' && name_end[2] == 'S';
}

bool is_quiet(const Thread& thread) {
  return load(thread.waits) || load(thread.ended) ||
         (load(thread.task) != 0 && is_asleep(load(thread.task)));
}

}  // namespace

void settle_threads() {
  int quiet = 0;
  for (int poll = 0; poll < kPolls; ++poll) {
    bool all = true;
    for (int i = 0; i < load(thread_count); ++i) {
      all = all && is_quiet(threads[i]);
    }
    quiet = all ? quiet + 1 : 0;
    if (quiet == kQuietPolls) {
      return;
    }
    const timespec pause = {0, kPollNanoseconds};
    ::nanosleep(&pause, nullptr);
  }
  ::_exit(1);
}

void inherit_threads() {
  is_child = true;
  for (int i = 0; i < thread_count; ++i) {
    left_behind += threads[i].waits ? 1 : 0;
  }
}

}  // namespace runbus::agent

#define RUNBUS_INSTEAD extern "C" __attribute__((visibility("default")))

RUNBUS_INSTEAD int pthread_create(pthread_t* id, const pthread_attr_t* wanted,
                                  void* (*start)(void*), void* argument) {
  using namespace runbus::agent;
  const auto create = original<Create>("pthread_create");
  const int index =
      is_child ? kMostThreads : __atomic_fetch_add(&thread_count, 1, __ATOMIC_SEQ_CST);
  if (index >= kMostThreads) {
    if (!is_child) {
      ::_exit(1);  // a parent with so many has no spares
    }
    return create(id, wanted, start, argument);
  }
  Thread& thread = threads[index];
  thread.start = start;
  thread.argument = argument;
  pthread_attr_t attributes;
  if (wanted != nullptr) {
    attributes = *wanted;
  } else {
    ::pthread_attr_init(&attributes);
  }
  const int error = give_stack(attributes) ? create(&thread.id, &attributes, run, &thread) : EAGAIN;
  if (error == 0) {
    *id = thread.id;
  } else {
    store(thread.ended, true);
  }
  return error;
}

RUNBUS_INSTEAD int pthread_join(pthread_t id, void** result) {
  using namespace runbus::agent;
  const auto join = original<Join>("pthread_join");
  for (int i = 0; is_child && i < thread_count; ++i) {
    Thread& thread = threads[i];
    if (thread.joined || ::pthread_equal(thread.id, id) == 0) {
      continue;
    }
    thread.joined = true;
    resume_those([&thread](const Thread& other) { return &other == &thread; });
    if (thread.goes_on) {
      return join(thread.successor, result);
    }
    if (result != nullptr) {
      *result = nullptr;
    }
    return 0;
  }
  return join(id, result);
}

RUNBUS_INSTEAD int pthread_cond_init(pthread_cond_t* place, const pthread_condattr_t* attributes) {
  using namespace runbus::agent;
  clockid_t clock = CLOCK_REALTIME;
  if (attributes != nullptr) {
    ::pthread_condattr_getclock(attributes, &clock);
  }
  at(place) = {0, clock == CLOCK_MONOTONIC ? 1U : 0U};
  return 0;
}

RUNBUS_INSTEAD int pthread_cond_destroy(pthread_cond_t*) { return 0; }

RUNBUS_INSTEAD int pthread_cond_wait(pthread_cond_t* place, pthread_mutex_t* mutex) {
  return runbus::agent::wait(place, mutex, true, nullptr);
}

RUNBUS_INSTEAD int pthread_cond_timedwait(pthread_cond_t* place, pthread_mutex_t* mutex,
                                          const timespec* limit) {
  using namespace runbus::agent;
  return wait(place, mutex, at(place).monotonic != 0, limit);
}

RUNBUS_INSTEAD int pthread_cond_clockwait(pthread_cond_t* place, pthread_mutex_t* mutex,
                                          clockid_t clock, const timespec* limit) {
  return runbus::agent::wait(place, mutex, clock == CLOCK_MONOTONIC, limit);
}

RUNBUS_INSTEAD int pthread_cond_signal(pthread_cond_t* place) {
  return runbus::agent::wake(place, 1);
}

RUNBUS_INSTEAD int pthread_cond_broadcast(pthread_cond_t* place) {
  return runbus::agent::wake(place, INT_MAX);
}
