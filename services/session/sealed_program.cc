#include "services/session/sealed_program.h"

#include <fcntl.h>
#include <sys/sendfile.h>

#include "proto/support/executable_memory.h"

namespace runbus::session {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

bool is_same(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino && one.st_size == other.st_size &&
         one.st_ctim.tv_sec == other.st_ctim.tv_sec && one.st_ctim.tv_nsec == other.st_ctim.tv_nsec;
}

}  // namespace

UniqueFd SealedProgram::open() {
  const std::lock_guard lock(mutex_);
  const UniqueFd file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat now {};
  if (!file || ::fstat(file.get(), &now) != 0) {
    return {};
  }
  if (!sealed_ || !is_same(now, copied_)) {
    sealed_ = copy(file.get());
    copied_ = now;
  }
  return sealed_ ? UniqueFd(::fcntl(sealed_.get(), F_DUPFD_CLOEXEC, 3)) : UniqueFd();
}

UniqueFd SealedProgram::copy(int file) const {
  UniqueFd memory = make_executable_memory("runtime");
  if (!memory) {
    return {};
  }
  ssize_t sent = 0;
  do {
    sent = ::sendfile(memory.get(), file, nullptr, 1 << 20);
  } while (sent > 0);
  if (sent < 0 || ::fchmod(memory.get(), 0500) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    return {};
  }
  return memory;
}

}  // namespace runbus::session
