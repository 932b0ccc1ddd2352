// Every transport through the one suite; prints what ran, and fails when something that must run did not.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>

#include "bus/embedded/embedded_transport.h"
#include "tests/conformance/suite.h"
#include "tests/support/test_support.h"

namespace leat::conformance {
namespace {

class EmbeddedHarness final : public Harness {
 public:
  EmbeddedHarness() { Reopen(); }
  bus::Transport& transport() override { return *transport_; }
  void Reopen() override {
    transport_.reset();
    transport_ = test::Must(bus::EmbeddedTransport::Open(temp_.Sub("bus")));
  }
  bool CreateOwnedTopic(const std::string& topic) override {
    test::Must(transport_->CreateOwnedTopic(topic, 1, "owner"));
    return true;
  }

 private:
  test::TempFolder temp_;
  std::unique_ptr<bus::EmbeddedTransport> transport_;
};

// The transports: a line each.
std::vector<TransportUnderTest> Transports() {
  return {
      {"embedded", [] { return std::make_unique<EmbeddedHarness>(); }},
  };
}

// Lines "transport: case"; '#' begins a comment.
std::vector<std::string> RequiredCases() {
  std::ifstream in(LEAT_SOURCE_DIR "/tests/conformance/required_cases.txt");
  REQUIRE(in.good());
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line[0] != '#') out.push_back(line);
  }
  return out;
}

TEST_CASE("every transport passes the suite") {
  std::map<std::string, uint64_t> ran;
  std::printf("%-12s %-40s %10s\n", "transport", "case", "assertions");
  for (const TransportUnderTest& transport : Transports()) {
    for (const CaseResult& result : RunSuite(transport)) {
      if (result.ran) ran[transport.name + ": " + result.name] = result.assertions;
      std::printf("%-12s %-40s %10s\n", transport.name.c_str(), result.name.c_str(),
                  result.ran ? std::to_string(result.assertions).c_str()
                             : ("not run: " + result.skipped).c_str());
      std::fflush(stdout);
    }
  }
  const auto required = RequiredCases();
  CHECK_FALSE(required.empty());
  for (const std::string& line : required) {
    CHECK_MESSAGE(ran[line] > 0, "required, and did not run: ", line);
  }
  // The other way round: a case that is not required could be lost without a word.
  for (const auto& [name, assertions] : ran) {
    CHECK_MESSAGE(std::find(required.begin(), required.end(), name) != required.end(),
                  "add to required_cases.txt: ", name);
  }
}

}  // namespace
}  // namespace leat::conformance
