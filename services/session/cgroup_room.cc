// CgroupRoom::detect(): where this process may make cgroups.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "services/session/cgroup.h"

namespace runbus::session {
namespace {

constexpr const char* kLeaf = "runbus-workers";
constexpr const char* kControllers[] = {"memory", "pids", "cpu", "freezer"};

struct Mount {
  std::string path;
  std::string type;
  std::string options;  // of the superblock: names a version 1 hierarchy's controllers
};

// proc(5), mountinfo: … mount_point options [tags…] - type source super_options
std::vector<Mount> cgroup_mounts() {
  std::vector<Mount> mounts;
  std::istringstream lines(read_small_file("/proc/self/mountinfo"));
  for (std::string line; std::getline(lines, line);) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) {
      continue;
    }
    Mount mount;
    std::string skipped;
    std::istringstream(line.substr(0, dash)) >> skipped >> skipped >> skipped >> skipped >>
        mount.path;
    std::istringstream(line.substr(dash + 3)) >> mount.type >> skipped >> mount.options;
    if (mount.type == "cgroup" || mount.type == "cgroup2") {
      mounts.push_back(mount);
    }
  }
  return mounts;
}

bool lists(const std::string& text, const std::string& word, char separator) {
  std::istringstream words(text);
  for (std::string item; std::getline(words, item, separator);) {
    if (item == word) {
      return true;
    }
  }
  return false;
}

std::string trimmed(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
    text.pop_back();
  }
  return text;
}

bool write_text(const std::string& path, const std::string& text) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

bool make_folder(const std::string& path) {
  return (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) && ::access(path.c_str(), W_OK) == 0;
}

std::string no_write(int version, const std::string& path, int error) {
  std::string text =
      "the cgroup folder " + path + " cannot be written (" + std::strerror(error) + "): ";
  if (::geteuid() != 0 && version == 1) {
    return text +
           "an ordinary user gets no group of version 1: run runbus as root, or boot with "
           "\"systemd.unified_cgroup_hierarchy=1\"";
  }
  if (::geteuid() != 0) {
    return text +
           "start runbus in a group of its own, for example with "
           "\"systemd-run --user --scope -p Delegate=yes runbus up\", or as root";
  }
  return text +
         "inside a container, mount the cgroup file system writable (Docker: --cgroupns=private "
         "and "
         "-v /sys/fs/cgroup:/sys/fs/cgroup:rw), or run runbus on the host";
}

// This process's version 2 group, relative to the mount.
std::string own_group() {
  std::istringstream lines(read_small_file("/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("0::")) {
      return line.substr(3) == "/" ? std::string() : line.substr(3);
    }
  }
  return {};
}

// A group with processes of its own cannot hand controllers down (cgroups(7), "no internal
// processes"), so they move into a leaf beside the sandboxes.
bool move_members_into_leaf(const std::string& group) {
  const std::string leaf = group + "/" + kLeaf;
  if (!make_folder(leaf)) {
    return false;
  }
  std::istringstream pids(read_small_file(group + "/cgroup.procs"));
  bool moved = true;
  for (std::string pid; pids >> pid;) {
    moved = write_text(leaf + "/cgroup.procs", pid) && moved;
  }
  return moved;
}

void enable_controllers(const std::string& group) {
  const std::string available = trimmed(read_small_file(group + "/cgroup.controllers"));
  for (const char* controller : kControllers) {
    if (lists(available, controller, ' ')) {
      // Failing is seen by what the folder below then offers.
      (void)write_text(group + "/cgroup.subtree_control", std::string("+") + controller);
    }
  }
}

void detect_v2(CgroupRoom& room, const std::string& mount) {
  std::string group = mount;
  if (::geteuid() != 0) {
    group += own_group();
    if (group.ends_with(std::string("/") + kLeaf)) {
      group.resize(group.size() - std::strlen(kLeaf) - 1);  // a sibling has moved us already
    }
  }
  if (::access((group + "/cgroup.procs").c_str(), W_OK) != 0 || !make_folder(group + "/runbus")) {
    for (const char* controller : kControllers) {
      room.why[controller] = no_write(2, group, errno);
    }
    return;
  }
  // The machine's own root group may hold processes; the root of a container and a delegated group
  // not.
  if (::access((group + "/cgroup.type").c_str(), F_OK) == 0 && !move_members_into_leaf(group)) {
    for (const char* controller : kControllers) {
      room.why[controller] = no_write(2, group + "/" + kLeaf, errno);
    }
    return;
  }
  enable_controllers(group);
  enable_controllers(group + "/runbus");
  const std::string usable = trimmed(read_small_file(group + "/runbus/cgroup.subtree_control"));
  room.version = 2;
  for (const char* controller : kControllers) {
    // The freezer is part of every version 2 group but the root.
    if (std::strcmp(controller, "freezer") == 0 || lists(usable, controller, ' ')) {
      room.bases[controller] = group + "/runbus";
    } else {
      room.why[controller] = std::string("the ") + controller + " controller is not delegated to " +
                             group + ": with systemd, set Delegate=yes on the unit";
    }
  }
}

void detect_v1(CgroupRoom& room, const std::vector<Mount>& mounts) {
  room.version = 1;
  for (const char* controller : kControllers) {
    const auto found = std::find_if(mounts.begin(), mounts.end(), [&](const Mount& mount) {
      return mount.type == "cgroup" && lists(mount.options, controller, ',');
    });
    if (found == mounts.end()) {
      room.why[controller] =
          std::string("the kernel's ") + controller + " cgroup controller is not mounted";
    } else if (make_folder(found->path + "/runbus")) {
      room.bases[controller] = found->path + "/runbus";
    } else {
      room.why[controller] = no_write(1, found->path, errno);
    }
  }
}

}  // namespace

CgroupRoom CgroupRoom::detect() {
  CgroupRoom room;
  const std::vector<Mount> mounts = cgroup_mounts();
  std::string v2;
  bool v1 = false;
  for (const Mount& mount : mounts) {
    if (mount.type == "cgroup2") {
      v2 = mount.path;
    } else {
      v1 = v1 || lists(mount.options, "memory", ',') || lists(mount.options, "pids", ',');
    }
  }
  if (v1) {
    room.hybrid_mount = v2;
    detect_v1(room, mounts);
  } else if (!v2.empty()) {
    detect_v2(room, v2);
  } else {
    for (const char* controller : kControllers) {
      room.why[controller] = "no cgroup file system is mounted";
    }
  }
  return room;
}

}  // namespace runbus::session
