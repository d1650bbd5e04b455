#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

// Decides which CURVE keys may connect (ZAP, RFC 27) by a directory of NAME.pub files. A key that
// is added or removed counts from the next handshake on; a file that is edited in place, within a
// second.
namespace runbus::broker {

// The ZAP domain of a socket.
inline constexpr std::string_view kBusDomain = "bus";        // for the roles worker and gateway
inline constexpr std::string_view kEventsDomain = "events";  // for all roles

// Metadata of an authenticated connection, for zmq_msg_gets.
inline constexpr const char* kUserProperty = "User-Id";  // "role:name"
inline constexpr const char* kNodeProperty = "X-Node";   // absent when the key is bound to none

class Authenticator {
 public:
  explicit Authenticator(std::string directory);

  // The frames of a request (without an envelope) to the frames of its answer; empty when it is no
  // ZAP request.
  std::vector<std::string> answer(const std::vector<std::string>& request, std::uint64_t now_ms);

 private:
  struct Grant {
    std::string role;
    std::string name;
    std::string node;
  };

  void refresh(std::uint64_t now_ms);
  void read_all();
  const Grant* find(std::string_view domain, std::string_view key_bytes) const;

  std::string directory_;
  std::unordered_map<std::string, Grant> grants_;  // by public key
  std::uint64_t read_at_ms_ = 0;
  std::uint64_t refused_ = 0;
  std::uint64_t refusal_logged_ms_ = 0;
  std::int64_t directory_changed_ns_ = -1;
};

}  // namespace runbus::broker
