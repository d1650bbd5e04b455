#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// Where in the params a reader stands. A chain of steps on the reader's own stack: nothing is built
// until an error wants the text.
namespace runbus::wire {

struct JsonPath {
  enum class Step { kRoot, kField, kKey, kIndex };

  Step step = Step::kRoot;
  const JsonPath* parent = nullptr;
  std::string_view name;  // kField: from the schema. kKey: from the client.
  std::size_t index = 0;

  JsonPath field(std::string_view field_name) const { return {Step::kField, this, field_name, 0}; }
  JsonPath key(std::string_view text) const { return {Step::kKey, this, text, 0}; }
  JsonPath element(std::size_t at) const { return {Step::kIndex, this, {}, at}; }
};

// Bytes of a client's own text that one error detail repeats.
constexpr std::size_t kMaxEcho = 64;

// "files[2].path", "" for the root; at most kMaxEcho bytes of client text (the rest is "...") and
// bounded in all.
std::string to_string(const JsonPath& path);

}  // namespace runbus::wire
