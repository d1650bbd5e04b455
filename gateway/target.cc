#include "gateway/target.h"

#include <algorithm>
#include <charconv>

namespace runbus::gateway {
namespace {

// Calls `visit` with name and value of each NAME=VALUE between separators until it returns true.
template <class Visit>
void each_pair(std::string_view text, char separator, const Visit& visit) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    std::string_view pair = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!pair.empty() && pair.front() == ' ') {
      pair.remove_prefix(1);
    }
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const std::string_view value = pair.substr(std::min(equals + 1, pair.size()));
    if (visit(pair.substr(0, equals), value)) {
      return;
    }
  }
}

}  // namespace

Target split_target(std::string_view target) {
  target = target.substr(0, target.find('#'));
  const std::size_t question = target.find('?');
  if (question == std::string_view::npos) {
    return {target, {}};
  }
  return {target.substr(0, question), target.substr(question + 1)};
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned byte = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, byte, 16).ptr ==
            text.data() + i + 3) {
      out.push_back(static_cast<char>(byte));
      i += 2;
    } else {
      out.push_back(text[i] == '+' ? ' ' : text[i]);
    }
  }
  return out;
}

std::optional<std::string> query_parameter(std::string_view query, std::string_view name) {
  std::optional<std::string> found;
  each_pair(query, '&', [&](std::string_view key, std::string_view value) {
    if (percent_decode(key) == name) {
      found = percent_decode(value);
    }
    return found.has_value();
  });
  return found;
}

std::optional<std::string> cookie(std::string_view header, std::string_view name) {
  std::optional<std::string> found;
  each_pair(header, ';', [&](std::string_view key, std::string_view value) {
    if (key == name) {
      found = std::string(value);
    }
    return found.has_value();
  });
  return found;
}

}  // namespace runbus::gateway
