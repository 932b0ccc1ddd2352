// Every transport through the one suite; prints what ran, and fails when something that must run did not.
#include <doctest/doctest.h>
#include <librdkafka/rdkafka.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>

#include "bus/embedded/embedded_transport.h"
#include "bus/kafka/kafka_transport.h"
#include "bus/rabbitmq/rabbitmq_transport.h"
#include "tests/conformance/suite.h"
#include "tests/support/broker.h"
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

 private:
  test::TempFolder temp_;
  std::unique_ptr<bus::EmbeddedTransport> transport_;
};

// A broker that the case before has stopped or frozen may need a moment.
template <typename Transport, typename Options>
std::unique_ptr<Transport> MustOpen(const Options& options) {
  constexpr auto kPatience = std::chrono::seconds(60);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    auto opened = Transport::Open(options);
    if (opened || !opened.error().Retryable() || std::chrono::steady_clock::now() > deadline)
      return test::Must(std::move(opened));
  }
}

// One broker for all cases, and topics of its own for each.
class KafkaHarness final : public Harness {
 public:
  explicit KafkaHarness(bool brief_timeouts) {
    static int harnesses = 0;
    options_.properties["bootstrap.servers"] = broker()->address();
    if (brief_timeouts) {
      options_.properties["message.timeout.ms"] = "4000";
      options_.properties["socket.timeout.ms"] = "3000";
      options_.timeout = std::chrono::milliseconds(5000);
    }
    options_.topic_prefix = "case" + std::to_string(++harnesses) + ".";
    Reopen();
  }
  bus::Transport& transport() override { return *transport_; }
  void Reopen() override {
    transport_.reset();
    transport_ = MustOpen<bus::KafkaTransport>(options_);
  }
  test::Broker* broker() override {
    static test::Broker broker("kafka", 19292);
    return &broker;
  }
  std::vector<std::string> from_elsewhere() override {
    return {"kafka", broker()->address(), options_.topic_prefix};
  }
  // As every tool for lag does: asked of the group's coordinator.
  std::optional<uint64_t> Committed(const std::string& topic, const std::string& group,
                                    uint32_t partition) override {
    char text[512];
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", broker()->address().c_str(), text, sizeof text);
    rd_kafka_conf_set(conf, "group.id", (options_.topic_prefix + group).c_str(), text, sizeof text);
    rd_kafka_t* const asker = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    REQUIRE(asker != nullptr);
    auto* const list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, (options_.topic_prefix + topic).c_str(),
                                      static_cast<int32_t>(partition));
    constexpr int kTimeoutMs = 10'000;
    CHECK(rd_kafka_committed(asker, list, kTimeoutMs) == RD_KAFKA_RESP_ERR_NO_ERROR);
    const int64_t offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(asker);
    if (offset < 0) return std::nullopt;
    return static_cast<uint64_t>(offset);
  }

 private:
  bus::KafkaOptions options_;
  std::unique_ptr<bus::KafkaTransport> transport_;
};

// The same with an exchange of its own for each.
class RabbitMqHarness final : public Harness {
 public:
  explicit RabbitMqHarness(bool brief_timeouts) {
    static int harnesses = 0;
    options_.port = static_cast<uint16_t>(broker()->port());
    if (brief_timeouts) {
      options_.heartbeat_s = 2;
      options_.timeout = std::chrono::milliseconds(5000);
      options_.confirm_timeout = std::chrono::milliseconds(4000);
    }
    options_.exchange = "case" + std::to_string(++harnesses);
    Reopen();
  }
  bus::Transport& transport() override { return *transport_; }
  void Reopen() override {
    transport_.reset();
    transport_ = MustOpen<bus::RabbitMqTransport>(options_);
  }
  test::Broker* broker() override {
    static test::Broker broker("rabbitmq", 19772);
    return &broker;
  }
  std::vector<std::string> from_elsewhere() override {
    return {"rabbitmq", std::to_string(broker()->port()), options_.exchange};
  }

 private:
  bus::RabbitMqOptions options_;
  std::unique_ptr<bus::RabbitMqTransport> transport_;
};

// The transports: a line each. One is run per ctest: LEAT_TRANSPORT names it.
std::vector<TransportUnderTest> Transports() {
  return {
      {"embedded", [](bool) { return std::make_unique<EmbeddedHarness>(); }},
      {"kafka", [](bool brief) { return std::make_unique<KafkaHarness>(brief); }},
      {"rabbitmq", [](bool brief) { return std::make_unique<RabbitMqHarness>(brief); }},
  };
}

// Lines "transport: case"; '#' begins a comment.
std::vector<std::string> RequiredCases() {
  std::ifstream in(test::SourceDir() + "/tests/conformance/required_cases.txt");
  REQUIRE(in.good());
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line[0] != '#') out.push_back(line);
  }
  return out;
}

TEST_CASE("every transport passes the suite") {
  std::map<std::string, uint64_t> ran;
  std::printf("%-12s %-40s %10s %8s\n", "transport", "case", "assertions", "seconds");
  const char* chosen = std::getenv("LEAT_TRANSPORT");
  REQUIRE_MESSAGE(chosen != nullptr, "LEAT_TRANSPORT names the transport: embedded, kafka, rabbitmq");
  for (const TransportUnderTest& transport : Transports()) {
    if (transport.name != chosen) continue;
    RunSuite(transport, [&](const CaseResult& result) {
      if (result.ran) ran[transport.name + ": " + result.name] = result.assertions;
      std::printf("%-12s %-40s %10s %8.2f\n", transport.name.c_str(), result.name.c_str(),
                  result.ran ? std::to_string(result.assertions).c_str()
                             : ("not run: " + result.skipped).c_str(),
                  std::chrono::duration<double>(result.took).count());
      std::fflush(stdout);
    });
  }
  if (std::getenv("LEAT_CASE") != nullptr) return;  // some of them were asked for
  const auto required = RequiredCases();
  CHECK_FALSE(required.empty());
  for (const std::string& line : required) {
    if (!line.starts_with(std::string(chosen) + ": ")) continue;
    CHECK_MESSAGE(ran[line] > 0, "required, and did not run: ", line);
  }
  CHECK_FALSE(ran.empty());
  // The other way round: a case that is not required could be lost without a word.
  for (const auto& [name, assertions] : ran) {
    CHECK_MESSAGE(std::find(required.begin(), required.end(), name) != required.end(),
                  "add to required_cases.txt: ", name);
  }
}

}  // namespace
}  // namespace leat::conformance
