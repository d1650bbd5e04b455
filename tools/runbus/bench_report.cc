#include "tools/runbus/bench_report.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "proto/wire/transcoder.h"

namespace runbus::cli {
namespace {

std::string number(double value) {
  std::array<char, 64> text{};
  const int decimals = value >= 100 ? 0 : value >= 1 ? 2 : 4;
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(text.size() + 1, width), ' ');
  return text;
}

void member(std::string& json, const char* name, const std::string& value) {
  json.append(json.ends_with('{') ? "\"" : ",\"").append(name).append("\":").append(value);
}

std::string quoted(const std::string& text) {
  std::string out;
  wire::append_json_string(text, out);
  return out;
}

std::string list(const std::vector<std::string>& texts) {
  std::string out = "[";
  for (const std::string& text : texts) {
    out += (out.size() > 1 ? "," : "") + quoted(text);
  }
  return out + "]";
}

}  // namespace

std::string Report::table() const {
  std::string out = padded("what", 48) + padded("measured", 18) + padded("baseline", 46) +
                    padded("ratio", 9) + padded("budget", 26) + "\n";
  for (const Measurement& row : measurements_) {
    out += padded(row.what, 48) + padded(number(row.value) + " " + row.unit, 18);
    out += padded(row.baseline_name.empty() ? "-" : number(row.baseline) + " " + row.baseline_name,
                  46);
    out += padded(row.baseline > 0 ? number(row.ratio()) : "-", 9) +
           padded(row.budget.empty() ? "-" : row.budget, 26);
    out += !row.met ? "" : *row.met ? "met" : "MISSED";
    out += "\n";
  }
  for (const std::string& text : skipped_) {
    out += "SKIPPED " + text + "\n";
  }
  for (const std::string& text : failed_) {
    out += "FAILED " + text + "\n";
  }
  return out;
}

std::string Report::json() const {
  std::string rows;
  for (const Measurement& row : measurements_) {
    std::string json = "{";
    member(json, "what", quoted(row.what));
    member(json, "value", number(row.value));
    member(json, "unit", quoted(row.unit));
    if (row.baseline > 0) {
      member(json, "baseline", number(row.baseline));
      member(json, "baseline_name", quoted(row.baseline_name));
      member(json, "ratio", number(row.ratio()));
    }
    if (row.met) {
      member(json, "budget", quoted(row.budget));
      member(json, "met", *row.met ? "true" : "false");
    }
    rows += (rows.empty() ? "" : ",") + json + "}";
  }
  return "{\"measurements\":[" + rows + "],\"skipped\":" + list(skipped_) +
         ",\"failed\":" + list(failed_) + "}\n";
}

double percentile(std::vector<double>& samples, double share) {
  if (samples.empty()) {
    return 0;
  }
  std::sort(samples.begin(), samples.end());
  const auto last = static_cast<double>(samples.size() - 1);
  return samples[static_cast<std::size_t>(last * share + 0.5)];
}

}  // namespace runbus::cli
