#include "services/session/rootfs.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

namespace runbus::session {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTopLevel[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};

// Of /etc: what loaders, language runtimes and TLS need to run. Each is skipped where the host
// lacks it.
constexpr const char* kEtc[] = {
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "timezone",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ca-certificates",
    "mime.types",
    "magic",
    "locale.alias",
    "fonts",
    "python3",
    "python3.11",
    "java-17-openjdk",
    "java-21-openjdk",
    "R",
    "perl",
    "ghc",
    "protocols",
    "services",
    "inputrc",
    "terminfo",
};

void add_generated(Rootfs& rootfs, bool network, unsigned user) {
  const std::string id = std::to_string(user);
  rootfs.files.emplace_back("/etc/passwd",
                            "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
                            "runbus:x:" +
                                id + ":" + id +
                                ":runbus:/workspace:/bin/bash\n"
                                "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
  rootfs.files.emplace_back("/etc/group", "root:x:0:\nrunbus:x:" + id + ":\nnogroup:x:65534:\n");
  rootfs.files.emplace_back("/etc/hosts", "127.0.0.1 localhost runbus\n::1 localhost\n");
  rootfs.files.emplace_back("/etc/hostname", "runbus\n");
  rootfs.files.emplace_back("/etc/nsswitch.conf",
                            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"
                            "protocols: files\n");
  if (network && ::access("/etc/resolv.conf", R_OK) == 0) {
    rootfs.binds.emplace_back("/etc/resolv.conf", "/etc/resolv.conf");
  } else {
    rootfs.files.emplace_back("/etc/resolv.conf", "");
  }
}

void add_entry(Rootfs& rootfs, const std::string& host, const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(host, error);
  if (fs::is_symlink(status)) {
    rootfs.links.emplace_back(path, fs::read_symlink(host, error).string());
  } else if (fs::is_directory(status) || fs::is_regular_file(status)) {
    rootfs.binds.emplace_back(host, path);
  }
}

Rootfs of_host(bool network, unsigned user) {
  Rootfs rootfs;
  rootfs.binds.emplace_back("/usr", "/usr");
  for (const char* name : kTopLevel) {
    add_entry(rootfs, std::string("/") + name, std::string("/") + name);
  }
  for (const char* name : kEtc) {
    const std::string path = std::string("/etc/") + name;
    if (::access(path.c_str(), R_OK) == 0) {
      rootfs.binds.emplace_back(path, path);  // a link (localtime) is followed by the bind
    }
  }
  add_generated(rootfs, network, user);
  return rootfs;
}

Result<Rootfs> of_image(const std::string& image, bool network, unsigned user) {
  static constexpr const char* kOurs[] = {"proc", "sys", "dev", "tmp", "run", "workspace"};
  Rootfs rootfs;
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(image, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error || (!fs::exists(image + "/usr") && !fs::exists(image + "/bin"))) {
    return make_error(ErrorCode::kValidation, "the rootfs setting does not name an unpacked image",
                      image + ": " + (error ? error.message() : "neither usr nor bin in it"));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (std::find(std::begin(kOurs), std::end(kOurs), name) == std::end(kOurs)) {
      add_entry(rootfs, image + "/" + name, "/" + name);
    }
  }
  Rootfs generated;
  add_generated(generated, network, user);
  // A file can only be laid over one that the image has: its /etc is read-only.
  const auto has = [&](const auto& entry) {
    return fs::is_regular_file(fs::symlink_status(image + entry.second, error));
  };
  std::copy_if(generated.binds.begin(), generated.binds.end(), std::back_inserter(rootfs.binds),
               has);
  for (const auto& file : generated.files) {
    if (fs::is_regular_file(fs::symlink_status(image + file.first, error))) {
      rootfs.files.push_back(file);
    }
  }
  return rootfs;
}

}  // namespace

Result<Rootfs> describe_rootfs(const std::string& image, bool network, unsigned user) {
  if (image.empty()) {
    return of_host(network, user);
  }
  return of_image(image, network, user);
}

std::vector<std::string> sandbox_environment() {
  return {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/workspace",
          "USER=runbus", "LANG=C.UTF-8"};
}

}  // namespace runbus::session
