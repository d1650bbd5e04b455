#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "services/session/engine.h"
#include "services/session/launch.h"
#include "services/session/rootfs.h"

// The config.json of an OCI bundle (runtime-spec 1.0.2) for one sandbox.
namespace runbus::session {

struct Bundle {
  std::vector<std::string> command;
  std::string rootfs;      // folder of empty mount points
  std::string workspace;   // host path
  std::string agent;       // host path
  std::string generated;   // folder that holds the generated files by number
  std::uint32_t user = 0;  // of the first process, as the sandbox counts
  std::uint32_t group = 0;
  std::uint32_t host_uid = 0;   // of the sandbox's user
  std::uint32_t host_root = 0;  // of the sandbox's root; as an ordinary user there is none
  bool as_root = false;
  // The runtime brings a kernel of its own (gVisor): no user namespace and no list of system calls,
  // /dev and what is hidden of /proc are its matter.
  bool own_kernel = false;
  std::vector<std::string> capabilities;  // that the first process begins with
  std::vector<std::pair<std::string, std::string>>
      writable;              // host path → path, besides the workspace
  bool new_network = false;  // in the runtime's hands (not made before it)
  std::string cgroup;        // cgroupsPath; empty: none
  Limits limits;
  std::vector<std::pair<int, rlim_t>> resource_limits;
  // The filter of system calls as the kernel takes it, for crun, which else compiles the rules for
  // every sandbox anew; empty: by the rules.
  std::string seccomp_program;
  Rootfs view;
};

std::string bundle_config(const Bundle& bundle);

// Makes `folder`, if it is not there, with the bundle's config.json.
Result<void> write_bundle(const Bundle& bundle, const std::string& folder);

// The steps that make the folder `rootfs` with the mount points and links of `view` and `further`
// folders, and `generated` with its generated files.
std::vector<MountStep> mount_points(const Rootfs& view, const std::string& rootfs,
                                    const std::string& generated,
                                    const std::vector<std::string>& further = {});

}  // namespace runbus::session
