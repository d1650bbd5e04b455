#include "services/session/oci_engine_bundle.h"

#include <fcntl.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "proto/wire/transcoder.h"
#include "services/session/seccomp_policy.h"

namespace runbus::session {
namespace {

using Writer = rapidjson::Writer<rapidjson::StringBuffer>;

void text(Writer& writer, const char* key, const std::string& value) {
  writer.Key(key);
  writer.String(value);
}

void texts(Writer& writer, const char* key, const std::vector<std::string>& values) {
  writer.Key(key);
  writer.StartArray();
  for (const std::string& value : values) {
    writer.String(value);
  }
  writer.EndArray();
}

void number(Writer& writer, const char* key, std::uint64_t value) {
  writer.Key(key);
  writer.Uint64(value);
}

const char* limit_name(int resource) {
  switch (resource) {
    case RLIMIT_CORE:
      return "RLIMIT_CORE";
    case RLIMIT_NOFILE:
      return "RLIMIT_NOFILE";
    case RLIMIT_FSIZE:
      return "RLIMIT_FSIZE";
    default:
      return "RLIMIT_NPROC";
  }
}

void write_process(Writer& writer, const Bundle& bundle) {
  writer.Key("process");
  writer.StartObject();
  writer.Key("terminal");
  writer.Bool(false);
  writer.Key("user");
  writer.StartObject();
  number(writer, "uid", bundle.user);
  number(writer, "gid", bundle.group);
  writer.EndObject();
  texts(writer, "args", bundle.command);
  texts(writer, "env", sandbox_environment());
  text(writer, "cwd", "/workspace");
  writer.Key("capabilities");
  writer.StartObject();
  for (const char* set : {"bounding", "effective", "permitted"}) {
    texts(writer, set, bundle.capabilities);
  }
  for (const char* set : {"inheritable", "ambient"}) {
    texts(writer, set, {});
  }
  writer.EndObject();
  writer.Key("noNewPrivileges");
  writer.Bool(true);
  writer.Key("rlimits");
  writer.StartArray();
  for (const auto& [resource, value] : bundle.resource_limits) {
    writer.StartObject();
    text(writer, "type", limit_name(resource));
    number(writer, "hard", value);
    number(writer, "soft", value);
    writer.EndObject();
  }
  writer.EndArray();
  writer.EndObject();
}

void write_mount(Writer& writer, const std::string& destination, const std::string& type,
                 const std::string& source, const std::vector<std::string>& options) {
  writer.StartObject();
  text(writer, "destination", destination);
  text(writer, "type", type);
  text(writer, "source", source);
  texts(writer, "options", options);
  writer.EndObject();
}

void write_mounts(Writer& writer, const Bundle& bundle) {
  const std::vector<std::string> read_only{"rbind", "ro", "nosuid", "nodev"};
  const std::string size =
      "size=" + std::to_string(std::max<std::uint64_t>(bundle.limits.tmp, 4096));
  writer.Key("mounts");
  writer.StartArray();
  write_mount(writer, "/proc", "proc", "proc", {"nosuid", "noexec", "nodev"});
  if (!bundle.own_kernel) {
    write_mount(writer, "/dev", "tmpfs", "tmpfs",
                {"nosuid", "noexec", "mode=755", "size=64k", "ro"});
    write_mount(writer, "/dev/pts", "devpts", "devpts",
                {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"});
    write_mount(writer, "/dev/mqueue", "mqueue", "mqueue", {"nosuid", "nodev", "noexec"});
  }
  write_mount(writer, "/dev/shm", "tmpfs", "tmpfs",
              {"nosuid", "nodev", "noexec", "mode=1777", size});
  write_mount(writer, "/tmp", "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=1777", size});
  for (const auto& [source, path] : bundle.view.binds) {
    write_mount(writer, path, "bind", source, read_only);
  }
  for (std::size_t index = 0; index < bundle.view.files.size(); ++index) {
    write_mount(writer, bundle.view.files[index].first, "bind",
                bundle.generated + "/" + std::to_string(index), read_only);
  }
  write_mount(writer, "/workspace", "bind", bundle.workspace, {"bind", "rw", "nosuid", "nodev"});
  write_mount(writer, kAgentPath, "bind", bundle.agent, {"bind", "ro", "nosuid", "nodev"});
  for (const auto& [source, path] : bundle.writable) {
    write_mount(writer, path, "bind", source, {"bind", "rw", "nosuid", "nodev", "noexec"});
  }
  writer.EndArray();
}

void write_mapping(Writer& writer, const char* key, const Bundle& bundle) {
  const auto entry = [&writer](std::uint64_t inside, std::uint64_t host) {
    writer.StartObject();
    number(writer, "containerID", inside);
    number(writer, "hostID", host);
    number(writer, "size", 1);
    writer.EndObject();
  };
  writer.Key(key);
  writer.StartArray();
  if (bundle.as_root) {
    entry(0, bundle.host_root);
    entry(kSandboxUid, bundle.host_uid);
  } else {
    entry(0, bundle.host_uid);
  }
  writer.EndArray();
}

void write_seccomp(Writer& writer) {
  writer.Key("seccomp");
  writer.StartObject();
  text(writer, "defaultAction", "SCMP_ACT_ERRNO");
  number(writer, "defaultErrnoRet", ENOSYS);
  writer.Key("syscalls");
  writer.StartArray();
  for (const SeccompRule& rule : seccomp_rules()) {
    writer.StartObject();
    texts(writer, "names", rule.calls);
    text(writer, "action", rule.allow ? "SCMP_ACT_ALLOW" : "SCMP_ACT_ERRNO");
    if (!rule.allow) {
      number(writer, "errnoRet", EPERM);
    }
    if (!rule.tests.empty()) {
      writer.Key("args");
      writer.StartArray();
      for (const ArgumentTest& test : rule.tests) {
        writer.StartObject();
        number(writer, "index", test.index);
        number(writer, "value", test.mask);
        number(writer, "valueTwo", test.value);
        text(writer, "op", "SCMP_CMP_MASKED_EQ");
        writer.EndObject();
      }
      writer.EndArray();
    }
    writer.EndObject();
  }
  writer.EndArray();
  writer.EndObject();
}

void write_linux(Writer& writer, const Bundle& bundle) {
  writer.Key("linux");
  writer.StartObject();
  writer.Key("namespaces");
  writer.StartArray();
  std::vector<std::string> namespaces{"pid", "mount", "ipc", "uts"};
  if (!bundle.own_kernel) {
    namespaces.insert(namespaces.end(), {"user", "cgroup"});
  }
  if (bundle.new_network) {
    namespaces.emplace_back("network");
  }
  for (const std::string& name : namespaces) {
    writer.StartObject();
    text(writer, "type", name);
    writer.EndObject();
  }
  writer.EndArray();
  if (bundle.own_kernel) {
    writer.EndObject();
    return;
  }
  write_mapping(writer, "uidMappings", bundle);
  write_mapping(writer, "gidMappings", bundle);
  if (!bundle.cgroup.empty()) {
    text(writer, "cgroupsPath", bundle.cgroup);
  }
  texts(writer, "maskedPaths",
        {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
         "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi"});
  texts(writer, "readonlyPaths",
        {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"});
  write_seccomp(writer);
  writer.EndObject();
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

}  // namespace

std::string bundle_config(const Bundle& bundle) {
  rapidjson::StringBuffer buffer;
  Writer writer(buffer);
  writer.StartObject();
  text(writer, "ociVersion", "1.0.2");
  write_process(writer, bundle);
  writer.Key("root");
  writer.StartObject();
  text(writer, "path", bundle.rootfs);
  writer.Key("readonly");
  writer.Bool(true);
  writer.EndObject();
  text(writer, "hostname", "runbus");
  if (!bundle.seccomp_program.empty()) {
    writer.Key("annotations");
    writer.StartObject();
    std::string encoded;
    wire::append_base64(bundle.seccomp_program, encoded);
    text(writer, "run.oci.seccomp_bpf_data", encoded);
    writer.EndObject();
  }
  write_mounts(writer, bundle);
  write_linux(writer, bundle);
  writer.EndObject();
  return {buffer.GetString(), buffer.GetSize()};
}

Result<void> write_bundle(const Bundle& bundle, const std::string& folder) {
  const std::string config = bundle_config(bundle);
  const std::string path = folder + "/config.json";
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return make_error(ErrorCode::kInternal, {}, "mkdir " + folder + ": " + std::strerror(errno));
  }
  const UniqueFd file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file ||
      ::write(file.get(), config.data(), config.size()) != static_cast<ssize_t>(config.size())) {
    return make_error(ErrorCode::kInternal, {}, "writing " + path + ": " + std::strerror(errno));
  }
  return {};
}

std::vector<MountStep> mount_points(const Rootfs& view, const std::string& folder,
                                    const std::string& generated,
                                    const std::vector<std::string>& further) {
  using Kind = MountStep::Kind;
  std::vector<MountStep> steps{{Kind::kDirectory, {}, folder}, {Kind::kDirectory, {}, generated}};
  for (std::size_t index = 0; index < view.files.size(); ++index) {
    steps.push_back(
        {Kind::kFile, view.files[index].second, generated + "/" + std::to_string(index)});
  }
  std::set<std::string> made;
  const auto make = [&](const std::string& path, bool is_directory) {
    for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
      const bool last = slash == std::string::npos;
      const std::string part = path.substr(0, slash);
      if (made.insert(part).second) {
        // runc gives its tmpfs the mode of the mount point.
        const mode_t mode = part == "/tmp" ? 01777 : 0755;
        steps.push_back(
            {!last || is_directory ? Kind::kDirectory : Kind::kFile, {}, folder + part, mode});
      }
      if (last) {
        return;
      }
    }
  };
  std::set<std::string> bound;  // what is laid over a bind has its mount point in there
  for (const auto& [source, path] : view.binds) {
    const bool below = std::any_of(
        bound.begin(), bound.end(),
        [&path = path](const std::string& above) { return path.starts_with(above + "/"); });
    if (!below) {
      make(path, is_folder(source));
      bound.insert(path);
    }
  }
  for (const char* path : {"/proc", "/dev", "/tmp", "/workspace", "/run", "/var"}) {
    if (!bound.contains(path)) {
      make(path, true);
    }
  }
  make(kAgentPath, false);
  for (const std::string& path : further) {
    make(path, true);
  }
  for (const auto& [path, content] : view.files) {
    if (!bound.contains("/etc") || !path.starts_with("/etc/")) {
      make(path, false);
    }
  }
  if (!bound.contains("/var")) {
    steps.push_back({Kind::kLink, "/tmp", folder + "/var/tmp"});
  }
  for (const auto& [path, target] : view.links) {
    steps.push_back({Kind::kLink, target, folder + path});
  }
  return steps;
}

}  // namespace runbus::session
