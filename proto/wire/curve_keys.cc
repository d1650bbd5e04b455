#include "proto/wire/curve_keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <system_error>

#include "proto/support/id.h"
#include "proto/support/unique_fd.h"

namespace runbus::wire {
namespace {

constexpr std::size_t kMaxFileBytes = 4096;
constexpr std::size_t kKeyLength = 40;

using Fields = std::map<std::string, std::string, std::less<>>;

Error fault(std::string detail) { return make_error(ErrorCode::kValidation, std::move(detail)); }

Error system_fault(const std::string& what) {
  const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kValidation;
  return make_error(code, what + ": " + std::generic_category().message(errno));
}

std::string_view trim(std::string_view text) {
  const std::size_t from = text.find_first_not_of(" \t\r");
  if (from == std::string_view::npos) {
    return {};
  }
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

// `name = "value"`, perhaps with a comment behind it.
bool parse_line(std::string_view line, std::string& name, std::string& value) {
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos) {
    return false;
  }
  name = trim(line.substr(0, equals));
  const std::string_view rest = trim(line.substr(equals + 1));
  if (rest.size() < 2 || rest.front() != '"') {
    return false;
  }
  const std::size_t end = rest.find('"', 1);
  if (end == std::string_view::npos) {
    return false;
  }
  value = rest.substr(1, end - 1);
  const std::string_view after = trim(rest.substr(end + 1));
  return value.find('\\') == std::string::npos && (after.empty() || after.front() == '#');
}

Result<Fields> parse_fields(std::string_view text) {
  Fields fields;
  int number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t newline = text.find('\n');
    const std::string_view line = trim(text.substr(0, newline));
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (line.empty() || line.front() == '#') {
      continue;
    }
    std::string name;
    std::string value;
    if (!parse_line(line, name, value)) {
      return fault("line " + std::to_string(number) + ": expected name = \"value\"");
    }
    if (!fields.emplace(name, value).second) {
      return fault("line " + std::to_string(number) + ": " + name + " is given twice");
    }
  }
  return fields;
}

// Takes `name` out of `fields`; what remains in the end is unknown.
std::string take(Fields& fields, std::string_view name) {
  const auto found = fields.find(name);
  if (found == fields.end()) {
    return {};
  }
  std::string value = std::move(found->second);
  fields.erase(found);
  return value;
}

Result<std::string> read_file(const std::string& path, bool secret) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) {
    return system_fault("cannot open " + path);
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) {
    return system_fault("cannot examine " + path);
  }
  if (!S_ISREG(info.st_mode)) {
    return fault(path + " is not a file");
  }
  if (secret && (info.st_mode & 077U) != 0) {
    return fault(path + " holds a secret key and may be readable by its owner alone (mode 0600)");
  }
  std::string text(kMaxFileBytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t count = ::read(fd.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return system_fault("cannot read " + path);
    }
    if (count == 0) {
      break;
    }
    size += static_cast<std::size_t>(count);
  }
  if (size > kMaxFileBytes) {
    return fault(path + " is larger than a key file can be");
  }
  text.resize(size);
  return text;
}

Result<void> write_new_file(const std::string& path, mode_t mode, std::string_view text) {
  const UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) {
    Error error = system_fault("cannot create " + path);
    if (errno == EEXIST) {
      error.code = ErrorCode::kConflict;
    }
    return error;
  }
  while (!text.empty()) {
    const ssize_t count = ::write(fd.get(), text.data(), text.size());
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      Error error = system_fault("cannot write " + path);
      ::unlink(path.c_str());
      return error;
    }
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  if (::fsync(fd.get()) != 0) {
    return system_fault("cannot write " + path);
  }
  return {};
}

std::string check_authorized_key(const AuthorizedKey& key) {
  if (key.role != "worker" && key.role != "gateway" && key.role != "subscriber") {
    return R"(role is not "worker", "gateway" or "subscriber")";
  }
  if (!is_z85_key(key.public_key)) {
    return "public-key is not a key of 40 Z85 characters";
  }
  if (!key.node.empty() && !is_valid_id(key.node)) {
    return "node is not the name of a node";
  }
  return {};
}

}  // namespace

KeyPair make_key_pair() {
  std::array<char, kKeyLength + 1> public_key{};
  std::array<char, kKeyLength + 1> secret_key{};
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    throw std::runtime_error("this libzmq cannot make CURVE keys");
  }
  return {public_key.data(), secret_key.data()};
}

bool is_z85_key(std::string_view key) {
  if (key.size() != kKeyLength) {
    return false;
  }
  std::array<std::uint8_t, 32> bytes{};
  return zmq_z85_decode(bytes.data(), std::string(key).c_str()) != nullptr;
}

Result<void> write_secret_file(const std::string& path, const KeyPair& pair) {
  return write_new_file(path, 0600,
                        "# Secret: whoever has this file can pose as its owner.\npublic-key = \"" +
                            pair.public_key + "\"\nsecret-key = \"" + pair.secret_key + "\"\n");
}

Result<KeyPair> read_secret_file(const std::string& path) {
  auto text = read_file(path, true);
  if (!text) {
    return text.error();
  }
  auto fields = parse_fields(*text);
  if (!fields) {
    return fault(path + ", " + fields.error().detail);
  }
  const KeyPair pair{take(*fields, "public-key"), take(*fields, "secret-key")};
  if (!fields->empty()) {
    return fault(path + ": " + fields->begin()->first + " is unknown");
  }
  if (!is_z85_key(pair.public_key) || !is_z85_key(pair.secret_key)) {
    return fault(path + ": public-key and secret-key must be keys of 40 Z85 characters");
  }
  std::array<char, kKeyLength + 1> derived{};
  if (zmq_curve_public(derived.data(), pair.secret_key.c_str()) != 0 ||
      pair.public_key != derived.data()) {
    return fault(path + ": public-key does not belong to secret-key");
  }
  return pair;
}

Result<void> write_public_file(const std::string& path, const AuthorizedKey& key) {
  if (const std::string problem = check_authorized_key(key); !problem.empty()) {
    return fault(problem);
  }
  std::string text = "role = \"" + key.role + "\"\npublic-key = \"" + key.public_key + "\"\n";
  if (!key.node.empty()) {
    text += "node = \"" + key.node + "\"\n";
  }
  const std::string temporary = path + "." + random_hex(8);
  if (auto written = write_new_file(temporary, 0644, text); !written) {
    return written;
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    Error error = system_fault("cannot write " + path);
    ::unlink(temporary.c_str());
    return error;
  }
  return {};
}

Result<AuthorizedKey> parse_public_file(std::string_view text) {
  if (text.size() > kMaxFileBytes) {
    return fault("larger than a key file can be");
  }
  auto fields = parse_fields(text);
  if (!fields) {
    return fields.error();
  }
  AuthorizedKey key{take(*fields, "role"), take(*fields, "public-key"), take(*fields, "node")};
  if (!fields->empty()) {
    return fault(fields->begin()->first + " is unknown");
  }
  if (std::string problem = check_authorized_key(key); !problem.empty()) {
    return fault(std::move(problem));
  }
  return key;
}

Result<AuthorizedKey> read_public_file(const std::string& path) {
  auto text = read_file(path, false);
  if (!text) {
    return text.error();
  }
  auto key = parse_public_file(*text);
  if (!key) {
    return fault(path + ": " + key.error().detail);
  }
  return key;
}

}  // namespace runbus::wire
