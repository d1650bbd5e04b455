#pragma once

#include <optional>
#include <string>
#include <vector>

namespace runbus::cli {

// One measured figure beside its baseline.
struct Measurement {
  std::string what;
  double value = 0;
  std::string unit;
  std::string baseline_name;  // empty: none
  double baseline = 0;
  std::string budget;       // as DESIGN.md words it; empty: none
  std::optional<bool> met;  // with a budget

  double ratio() const { return baseline > 0 ? value / baseline : 0; }
};

// What `runbus bench` prints: measurements, and groups that were left out, with the reason.
class Report {
 public:
  void add(Measurement measurement) { measurements_.push_back(std::move(measurement)); }
  void skip(const std::string& what, const std::string& why) {
    skipped_.push_back(what + ": " + why);
  }
  void fail(const std::string& what, const std::string& why) {
    failed_.push_back(what + ": " + why);
  }
  bool failed() const { return !failed_.empty(); }

  std::string table() const;
  std::string json() const;

 private:
  std::vector<Measurement> measurements_;
  std::vector<std::string> skipped_;
  std::vector<std::string> failed_;
};

// The value below which `share` of the samples are; sorts them.
double percentile(std::vector<double>& samples, double share);

}  // namespace runbus::cli
