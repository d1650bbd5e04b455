#pragma once

#include <string>
#include <string_view>

#include "proto/wire/transcoder.h"

namespace runbus::wire {

// Writes JSON text in order and keeps the commas right; that brackets match is the caller's part.
class JsonBuilder {
 public:
  JsonBuilder& open(char bracket) {
    separate();
    text_.push_back(bracket);
    first_ = true;
    return *this;
  }
  JsonBuilder& close(char bracket) {
    text_.push_back(bracket);
    first_ = false;
    return *this;
  }
  JsonBuilder& key(std::string_view name) {
    separate();
    append_json_string(name, text_);
    text_.push_back(':');
    first_ = true;
    return *this;
  }
  JsonBuilder& string(std::string_view value) {
    separate();
    append_json_string(value, text_);
    return *this;
  }
  // `value` is JSON already: true, 1, "x" with its quotes.
  JsonBuilder& raw(std::string_view value) {
    separate();
    text_.append(value);
    return *this;
  }

  std::string take() { return std::move(text_); }

 private:
  void separate() {
    if (!first_) {
      text_.push_back(',');
    }
    first_ = false;
  }

  std::string text_;
  bool first_ = true;
};

}  // namespace runbus::wire
