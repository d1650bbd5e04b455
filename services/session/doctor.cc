#include "services/session/doctor.h"

#include <unistd.h>

#include <cstdlib>

#include "proto/support/log.h"
#include "services/session/cgroup.h"
#include "services/session/process_id.h"

namespace runbus::session {
namespace {

constexpr std::size_t kLogTail = 600;

std::optional<long> setting(const std::string& path) {
  const std::string text = read_small_file(path);
  if (text.empty()) {
    return std::nullopt;
  }
  return std::strtol(text.c_str(), nullptr, 10);
}

bool in_container() {
  return ::access("/.dockerenv", F_OK) == 0 || ::access("/run/.containerenv", F_OK) == 0 ||
         !read_small_file("/run/systemd/container").empty();
}

}  // namespace

std::string last_lines(const std::string& log) {
  const std::string tail = log.size() > kLogTail ? log.substr(log.size() - kLogTail) : log;
  std::string text;
  for (std::size_t start = 0; start < tail.size();) {
    const std::size_t end = std::min(tail.find('\n', start), tail.size());
    if (end > start) {
      text += (text.empty() ? "" : " | ") + printable(tail.substr(start, end - start), kLogTail);
    }
    start = end + 1;
  }
  return text;
}

Machine inspect_machine() {
  Machine machine;
  machine.root = ::geteuid() == 0;
  machine.container = in_container();
  machine.apparmor_restricts_namespaces =
      setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
  machine.unprivileged_namespaces = setting("/proc/sys/kernel/unprivileged_userns_clone");
  machine.max_user_namespaces = setting("/proc/sys/user/max_user_namespaces");
  machine.hybrid_cgroups = !CgroupRoom::detect().hybrid_mount.empty();
  return machine;
}

std::string missing_program(const std::string& program, const std::string& package) {
  return program + " is not installed: run \"sudo apt-get install " + package +
         "\" (or your distribution's package of that name).";
}

std::string explain_sandbox_failure(const std::string& engine, const Machine& machine,
                                    const std::string& log) {
  std::string text;
  const auto say = [&text](const std::string& sentence) {
    text += (text.empty() ? "" : " ") + sentence;
  };
  if (machine.max_user_namespaces == 0) {
    say("User namespaces are switched off (user.max_user_namespaces=0): run "
        "\"sudo sysctl user.max_user_namespaces=15000\".");
  }
  if (machine.unprivileged_namespaces == 0) {
    say("Ordinary users may not make user namespaces (kernel.unprivileged_userns_clone=0): run "
        "\"sudo sysctl kernel.unprivileged_userns_clone=1\".");
  }
  if (machine.apparmor_restricts_namespaces == 1 && (engine == "bubblewrap" || !machine.root)) {
    say("AppArmor keeps ordinary users from user namespaces "
        "(kernel.apparmor_restrict_unprivileged_userns=1, Ubuntu's default): install an AppArmor "
        "profile that "
        "allows \"userns\" to bwrap and crun, or run "
        "\"sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0\".");
  }
  if (machine.container && log.find("not permitted") != std::string::npos) {
    say("This is a container whose own rules forbid namespaces or mounts: give it "
        "\"--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt "
        "systempaths=unconfined\" (and \"--cap-add SYS_ADMIN\" as root), or run runbus on the "
        "host.");
  }
  if (engine == "oci" && machine.hybrid_cgroups && !machine.root) {
    say("This machine mounts version 1 and version 2 cgroups together (hybrid), which crun refuses "
        "to an ordinary user: use "
        "the bubblewrap engine, or boot with \"systemd.unified_cgroup_hierarchy=1\".");
  }
  if (text.empty()) {
    say("A trial sandbox did not run.");
  }
  if (const std::string tail = last_lines(log); !tail.empty()) {
    say("The last words: " + tail);
  }
  return text;
}

std::string describe(const Probe& probe, const std::string& engine) {
  std::string text = engine + ": " + (probe.works ? "works" : "does not work") + "\n";
  if (const auto why = probe.why.find("works"); why != probe.why.end()) {
    text += "  " + why->second + "\n";
  }
  for (const auto& [resource, how] : probe.enforced) {
    text += "  " + resource + ": ";
    if (how == "hard" || how == "soft") {
      text += how + " limit";
    } else {
      text += how == "none" ? "NOT enforced" : "enforced by " + how;
    }
    if (const auto why = probe.why.find(resource); why != probe.why.end()) {
      text += " (" + why->second + ")";
    }
    text += "\n";
  }
  return text;
}

}  // namespace runbus::session
