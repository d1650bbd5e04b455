#include "broker/authenticator.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <zmq.h>

#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "proto/wire/curve_keys.h"

namespace runbus::broker {
namespace {

constexpr std::uint64_t kReadAgainMs = 1000;
constexpr std::uint64_t kLogAgainMs = 1000;
constexpr std::size_t kMaxKeys = 10'000;
constexpr std::size_t kKeyBytes = 32;

void append_property(std::string& metadata, std::string_view name, std::string_view value) {
  metadata.push_back(static_cast<char>(name.size()));
  metadata.append(name);
  const auto size = static_cast<std::uint32_t>(value.size());
  for (const unsigned shift : {24U, 16U, 8U, 0U}) {
    metadata.push_back(static_cast<char>((size >> shift) & 0xffU));
  }
  metadata.append(value);
}

std::int64_t change_time(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return -1;
  }
  return std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

Authenticator::Authenticator(std::string directory) : directory_(std::move(directory)) {}

std::vector<std::string> Authenticator::answer(const std::vector<std::string>& request,
                                               std::uint64_t now_ms) {
  // version, request id, domain, address, routing id, mechanism, credentials
  if (request.size() < 6 || request[0] != "1.0") {
    return {};
  }
  const std::string& address = request[3];
  const bool is_curve =
      request.size() == 7 && request[5] == "CURVE" && request[6].size() == kKeyBytes;
  refresh(now_ms);
  const Grant* grant = is_curve ? find(request[2], request[6]) : nullptr;
  if (grant == nullptr) {
    ++refused_;
    if (now_ms - refusal_logged_ms_ >= kLogAgainMs) {
      refusal_logged_ms_ = now_ms;
      spdlog::warn("refused a connection from {}: its key is not authorized ({} so far)",
                   printable(address, 64), refused_);
    }
    return {"1.0", request[1], "400", "not authorized", "", ""};
  }
  std::string metadata;
  if (!grant->node.empty()) {
    append_property(metadata, kNodeProperty, grant->node);
  }
  spdlog::info("{} {} connects from {}", grant->role, grant->name, printable(address, 64));
  return {"1.0", request[1], "200", "OK", grant->role + ":" + grant->name, metadata};
}

// A handshake costs one stat(2) as a rule: whoever knows the broker's key can ask for many.
void Authenticator::refresh(std::uint64_t now_ms) {
  const std::int64_t changed = change_time(directory_);
  if (read_at_ms_ != 0 && changed == directory_changed_ns_ && now_ms - read_at_ms_ < kReadAgainMs) {
    return;
  }
  directory_changed_ns_ = changed;
  read_at_ms_ = now_ms;
  read_all();
}

void Authenticator::read_all() {
  grants_.clear();
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory_, error), end; !error && it != end;
       it.increment(error)) {
    const std::filesystem::path& path = it->path();
    if (path.extension() != ".pub") {
      continue;
    }
    const std::string name = path.stem().string();
    auto key = wire::read_public_file(path.string());
    if (!is_valid_id(name) || !key || grants_.size() >= kMaxKeys) {
      spdlog::warn("key file {} is not used: {}", printable(path.string()),
                   key ? "its name is no name, or there are too many" : to_string(key.error()));
      continue;
    }
    if (!grants_.emplace(key->public_key, Grant{key->role, name, key->node}).second) {
      spdlog::warn("key file {} is not used: another file has the same key",
                   printable(path.string()));
    }
  }
  if (error) {
    spdlog::error("the directory of authorized keys cannot be read: {}", error.message());
  }
}

const Authenticator::Grant* Authenticator::find(std::string_view domain,
                                                std::string_view key_bytes) const {
  std::array<char, 41> key{};
  zmq_z85_encode(key.data(), reinterpret_cast<const std::uint8_t*>(key_bytes.data()),
                 key_bytes.size());
  const auto found = grants_.find(key.data());
  if (found == grants_.end()) {
    return nullptr;
  }
  const bool allowed =
      domain == kEventsDomain || (domain == kBusDomain && found->second.role != "subscriber");
  return allowed ? &found->second : nullptr;
}

}  // namespace runbus::broker
