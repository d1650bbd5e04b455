#include "services/agent/identity.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "proto/support/unique_fd.h"

namespace runbus::agent {
namespace {

struct Users {
  uid_t agent = 0;
  uid_t programs = 0;
  bool apart = false;
  int as_agent = 0;  // how many AsAgent are alive
};
Users users;

constexpr uid_t kUnchanged = static_cast<uid_t>(-1);

// glibc's wrappers signal every thread; the agent has one.
bool set_users(uid_t real, uid_t effective, uid_t saved) {
  return ::syscall(SYS_setresuid, real, effective, saved) == 0;
}

// All capabilities go but these.
bool keep_capabilities(std::uint32_t kept) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2]{};
  sets[0].effective = sets[0].permitted = kept;
  return ::syscall(SYS_capset, &header, sets) == 0;
}

std::string failure(const std::string& what) { return what + ": " + std::strerror(errno); }

bool write_text(const std::string& path, const std::string& text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

}  // namespace

std::string separate_users(uid_t agent, uid_t programs) {
  if (agent == 0 || programs == 0 || agent == programs) {
    return "the agent and its programs need two users, neither of them root";
  }
  if (::getegid() != programs) {
    return "the group must be that of the programs";
  }
  // To come back from being the agent, with no user of ours by which programs could signal us.
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || !set_users(agent, programs, agent) ||
      !keep_capabilities(1U << CAP_SETUID)) {
    return failure("cannot become the session's user");
  }
  // The kernel makes it so at such a change, other kernels may not.
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  users = {agent, programs, true, 0};
  return "";
}

bool become_program_user() {
  return !users.apart ||
         (set_users(users.programs, users.programs, users.programs) && keep_capabilities(0));
}

AsAgent::AsAgent() {
  if (users.apart && users.as_agent++ == 0 && !set_users(kUnchanged, users.agent, kUnchanged)) {
    std::abort();
  }
}

AsAgent::~AsAgent() {
  const int error = errno;
  if (users.apart && --users.as_agent == 0 && !set_users(kUnchanged, users.programs, kUnchanged)) {
    std::abort();
  }
  errno = error;
}

std::string restrict_system_calls(const std::string& program_path) {
  std::vector<sock_filter> program(BPF_MAXINSNS);
  const UniqueFd file(::open(program_path.c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t size =
      file ? ::read(file.get(), program.data(), program.size() * sizeof(sock_filter)) : -1;
  if (size <= 0 || static_cast<std::size_t>(size) % sizeof(sock_filter) != 0) {
    return size < 0 ? failure("cannot read " + program_path) : program_path + " is no filter";
  }
  const sock_fprog filter{
      static_cast<unsigned short>(static_cast<std::size_t>(size) / sizeof(sock_filter)),
      program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0) {
    return failure("cannot restrict the system calls");
  }
  return "";
}

std::string bound_processes(std::uint64_t count, const std::string& folder) {
  const std::string group = folder + "/session";
  if (::mount("none", folder.c_str(), "cgroup", 0, "pids") != 0 ||
      ::mkdir(group.c_str(), 0755) != 0 ||
      !write_text(group + "/pids.max", std::to_string(count + 1)) ||
      !write_text(group + "/cgroup.procs", "0")) {
    return failure("cannot bound the number of processes");
  }
  return "";
}

}  // namespace runbus::agent
