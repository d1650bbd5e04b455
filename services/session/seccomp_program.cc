// The policy compiled with libseccomp.
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "services/session/seccomp_policy.h"

namespace runbus::session {
namespace {

using Filter = std::unique_ptr<void, decltype(&::seccomp_release)>;

Error seccomp_error(const std::string& what, int error) {
  return make_error(ErrorCode::kInternal, {}, "seccomp " + what + ": " + std::strerror(error));
}

Result<void> add_rule(scmp_filter_ctx filter, const SeccompRule& rule) {
  std::vector<scmp_arg_cmp> arguments;
  for (const ArgumentTest& test : rule.tests) {
    arguments.push_back({test.index, SCMP_CMP_MASKED_EQ, test.mask, test.value});
  }
  for (const std::string& call : rule.calls) {
    const int number = ::seccomp_syscall_resolve_name(call.c_str());
    if (number < 0) {
      continue;  // not of this architecture, or newer than this libseccomp: stays at the default
    }
    const int added =
        ::seccomp_rule_add_array(filter, rule.allow ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM),
                                 number, static_cast<unsigned>(arguments.size()), arguments.data());
    if (added != 0) {
      return seccomp_error("rule for " + call, -added);
    }
  }
  return {};
}

Result<std::string> compile() {
  const Filter filter(::seccomp_init(SCMP_ACT_ERRNO(ENOSYS)), &::seccomp_release);
  if (!filter) {
    return seccomp_error("start", ENOMEM);
  }
  // A tree in place of a list: read(2) must not cost two hundred comparisons.
  int set = ::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (set == 0) {
    set = ::seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  }
  if (set != 0) {
    return seccomp_error("attribute", -set);
  }
  for (const SeccompRule& rule : seccomp_rules()) {
    if (Result<void> added = add_rule(filter.get(), rule); !added) {
      return added.error();
    }
  }
  const UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) {
    return seccomp_error("file", errno);
  }
  if (const int exported = ::seccomp_export_bpf(filter.get(), file.get()); exported != 0) {
    return seccomp_error("export", -exported);
  }
  std::string program(static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END)), '\0');
  if (::pread(file.get(), program.data(), program.size(), 0) !=
      static_cast<ssize_t>(program.size())) {
    return seccomp_error("read", errno);
  }
  return program;
}

}  // namespace

Result<std::string> seccomp_program() {
  static const Result<std::string> program = compile();
  return program;
}

Result<UniqueFd> seccomp_file() {
  const Result<std::string> program = seccomp_program();
  if (!program) {
    return program.error();
  }
  UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file ||
      ::write(file.get(), program->data(), program->size()) !=
          static_cast<ssize_t>(program->size()) ||
      ::lseek(file.get(), 0, SEEK_SET) != 0) {
    return seccomp_error("file", errno);
  }
  return file;
}

}  // namespace runbus::session
