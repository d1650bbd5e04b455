#include "proto/support/id.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>

namespace runbus {
namespace {

void fill_random(std::span<unsigned char> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::getrandom(bytes.data(), bytes.size(), 0);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

// A system call for each id would be a good part of the cost of a small call. A process of ours
// that forks goes on to exec, so no two share what is left of this.
void fill_random_id(std::span<unsigned char> bytes) {
  static thread_local std::array<unsigned char, 256> pool;
  static thread_local std::size_t used = pool.size();
  if (pool.size() - used < bytes.size()) {
    fill_random(pool);
    used = 0;
  }
  std::copy_n(pool.begin() + static_cast<std::ptrdiff_t>(used), bytes.size(), bytes.begin());
  used += bytes.size();
}

void append_hex(std::string& text, std::span<const unsigned char> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (const unsigned char byte : bytes) {
    text.push_back(kDigits[byte >> 4U]);
    text.push_back(kDigits[byte & 15U]);
  }
}

constexpr bool is_alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// Ids are looked at in every message of the bus.
constexpr auto kOfIds = [] {
  std::array<bool, 256> table{};
  for (unsigned i = 0; i < table.size(); ++i) {
    const char c = static_cast<char>(i);
    table[i] = is_alphanumeric(c) || c == '.' || c == '_' || c == ':' || c == '-';
  }
  return table;
}();

}  // namespace

std::string make_uuid() {
  std::array<unsigned char, 16> bytes{};
  fill_random_id(std::span(bytes).subspan(6));
  const auto milliseconds =
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     std::chrono::system_clock::now().time_since_epoch())
                                     .count());
  for (unsigned i = 0; i < 6; ++i) {
    bytes[i] = static_cast<unsigned char>(milliseconds >> (40U - 8U * i));
  }
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0fU) | 0x70U);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3fU) | 0x80U);

  std::string text;
  text.reserve(36);
  const std::span<const unsigned char> all(bytes);
  append_hex(text, all.subspan(0, 4));
  for (const std::size_t at : {4U, 6U, 8U}) {
    text.push_back('-');
    append_hex(text, all.subspan(at, 2));
  }
  text.push_back('-');
  append_hex(text, all.subspan(10));
  return text;
}

std::string random_hex(std::size_t bytes) {
  std::string raw(bytes, '\0');
  fill_random(std::span(reinterpret_cast<unsigned char*>(raw.data()), raw.size()));
  std::string text;
  text.reserve(bytes * 2);
  append_hex(text, std::span(reinterpret_cast<const unsigned char*>(raw.data()), raw.size()));
  return text;
}

bool is_valid_id(std::string_view id) {
  if (id.empty() || id.size() > 128 || !is_alphanumeric(id.front())) {
    return false;
  }
  return std::all_of(id.begin(), id.end(),
                     [](char c) { return kOfIds[static_cast<unsigned char>(c)]; });
}

bool equal_constant_time(std::string_view a, std::string_view b) {
  // A length differs in public; only the content is secret.
  if (a.size() != b.size()) {
    return false;
  }
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned>(static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]));
  }
  return difference == 0;
}

}  // namespace runbus
