// What only Kafka has: checks of topics, retention, TLS and SASL, errors of brokers that are not as
// they should be, and a producer that fails for good. One broker for all, and an older one for SCRAM.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <librdkafka/rdkafka.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <optional>
#include <thread>

#include "bus/kafka/kafka_transport.h"
#include "core/log.h"
#include "runtime/decider_runner.h"
#include "runtime/relay.h"
#include "tests/support/broker.h"
#include "tests/support/counter.h"
#include "tests/support/test_support.h"

namespace leat::bus {
namespace {

using test::ClassOf;
using test::DataEvent;
using test::Must;

constexpr int kPort = 19492;
constexpr int kOlderPort = 19592;
// With older libraries brokers from 4.0 on refuse every user of SCRAM; this one does not.
constexpr int kScramWithKafka4 = 0x020601ff;
constexpr const char* kOlderVersion = "3.9.1";
constexpr auto kPatience = std::chrono::seconds(30);

struct Cluster {
  test::TempFolder certificates;
  const int tls_port;
  test::Broker broker;

  // `version` of Kafka; empty: the one that deploy/kafka pins.
  explicit Cluster(int port, const std::string& version = {})
      : tls_port(port + 2),
        broker("kafka", port, Properties(certificates.path(), port), Environment(version)) {}

  static std::string Properties(const std::string& folder, int port) {
    REQUIRE(std::system((test::SourceDir() + "/tests/support/certificates " + folder).c_str()) == 0);
    const std::string plain = "127.0.0.1:" + std::to_string(port);
    const std::string tls = std::to_string(port + 2);
    return "listeners=PLAINTEXT://" + plain +
           ",CONTROLLER://127.0.0.1:" + std::to_string(port + 1) + ",SASL_SSL://127.0.0.1:" + tls +
           "\nadvertised.listeners=PLAINTEXT://" + plain + ",SASL_SSL://localhost:" + tls +
           "\nssl.keystore.type=PEM\nssl.keystore.location=" + folder +
           "/server-chain.pem\n"
           "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n"
           "listener.name.sasl_ssl.plain.sasl.jaas.config="
           "org.apache.kafka.common.security.plain.PlainLoginModule required user_plain=\"open\";\n"
           "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config="
           "org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
           "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config="
           "org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
           "log.retention.check.interval.ms=200\nlog.initial.task.delay.ms=200\n";
  }
  static std::string Environment(const std::string& version) {
    return "LEAT_KAFKA_VERSION='" + version +
           "' LEAT_KAFKA_FORMAT='--add-scram SCRAM-SHA-256=[name=short,password=open256] "
           "--add-scram SCRAM-SHA-512=[name=long,password=open512]'";
  }
};

Cluster& TheCluster() {
  static Cluster cluster(kPort);
  return cluster;
}

KafkaOptions Options() {
  KafkaOptions options;
  options.properties["bootstrap.servers"] = TheCluster().broker.address();
  options.timeout = std::chrono::milliseconds(5000);
  return options;
}

template <typename T>
void Refused(const Result<T>& result, ErrorClass error_class,
             const std::vector<std::string>& named) {
  REQUIRE_FALSE(result.has_value());
  const std::string text = result.error().Text();
  INFO(text);
  CHECK(core::ErrorClassName(result.error().error_class) == core::ErrorClassName(error_class));
  CHECK_FALSE(result.error().remedy.empty());
  for (const auto& name : named) {
    INFO(name);
    CHECK(text.find(name) != std::string::npos);
  }
}

// Made by somebody else.
void ForeignTopic(const std::string& topic, const std::string& name, const std::string& value) {
  char text[512];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", TheCluster().broker.address().c_str(), text,
                    sizeof text);
  rd_kafka_t* const handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
  REQUIRE(handle != nullptr);
  rd_kafka_NewTopic_t* made = rd_kafka_NewTopic_new(topic.c_str(), 1, 1, text, sizeof text);
  rd_kafka_NewTopic_set_config(made, name.c_str(), value.c_str());
  rd_kafka_queue_t* const queue = rd_kafka_queue_new(handle);
  rd_kafka_CreateTopics(handle, &made, 1, nullptr, queue);
  rd_kafka_event_t* const answer = rd_kafka_queue_poll(queue, 10'000);
  REQUIRE(answer != nullptr);
  CHECK(rd_kafka_event_error(answer) == RD_KAFKA_RESP_ERR_NO_ERROR);
  rd_kafka_event_destroy(answer);
  rd_kafka_queue_destroy(queue);
  rd_kafka_NewTopic_destroy(made);
  rd_kafka_destroy(handle);
}

TEST_CASE("a topic that is there is checked against what was wanted") {
  const auto transport = Must(KafkaTransport::Open(Options()));
  Must(transport->CreateTopic("as-wanted", 2));
  Must(transport->CreateTopic("as-wanted", 2));
  Refused(transport->CreateTopic("as-wanted", 3), ErrorClass::kConflict,
          {"as-wanted", "has 2 partitions", "not 3"});

  auto options = Options();
  options.retention_ms = 3'600'000;
  const auto shorter = Must(KafkaTransport::Open(options));
  Refused(shorter->CreateTopic("as-wanted", 2), ErrorClass::kConflict,
          {"as-wanted", "retention.ms=-1", "retention.ms=3600000", "kafka-configs"});
  Must(shorter->CreateTopic("as-wanted-shorter", 1));
  Refused(transport->CreateTopic("as-wanted-shorter", 1), ErrorClass::kConflict,
          {"retention.ms=3600000", "wanted was retention.ms=-1", "topics.retention_ms=3600000"});
  Refused(shorter->CreateTopic("as-wanted-shorter", 1, {.retention = std::chrono::seconds(60)}),
          ErrorClass::kConflict, {"retention.ms=60000"});

  options = Options();
  options.replication = 2;
  const auto replicated = Must(KafkaTransport::Open(options));
  Refused(replicated->CreateTopic("as-wanted", 2), ErrorClass::kConflict,
          {"replication factor 1", "wanted was 2", "topics.replication=1"});
  Refused(replicated->CreateTopic("too-many", 1), ErrorClass::kInvalid, {"topics.replication"});

  ForeignTopic("not-ours", "max.message.bytes", "1000");
  options = Options();
  options.retention_ms = 604'800'000;  // the broker's own
  const auto like_theirs = Must(KafkaTransport::Open(options));
  Refused(like_theirs->CreateTopic("not-ours", 1), ErrorClass::kConflict,
          {"not-ours", "max.message.bytes=1000", "--add-config max.message.bytes="});
}

TEST_CASE("what is older than a topic's retention goes") {
  const auto transport = Must(KafkaTransport::Open(Options()));
  const TopicOptions brief{.retention = std::chrono::milliseconds(1000)};
  Must(transport->CreateTopic("brief", 1, brief));
  Must(transport->CreateTopic("brief", 1, brief));
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  Status polled;
  while (polled && std::chrono::steady_clock::now() < deadline) {
    Must(transport->Publish("brief", {DataEvent("x")}));
    const auto reader = Must(transport->Subscribe("brief", 0, 0));
    MessageBatch batch;
    polled = reader->Poll({}, &batch);
  }
  Refused(polled, ErrorClass::kNotFound, {"brief", "offset 0", "it begins at"});
  // What is younger is there.
  const uint64_t end = Must(transport->End("brief", 0)).offset;
  for (bool first = true; first || !polled; first = false) {
    REQUIRE(std::chrono::steady_clock::now() < deadline + kPatience);
    const auto at = Must(transport->Publish("brief", {DataEvent("young")}));
    if (first) CHECK(at[0].offset == end);
    const auto reader = Must(transport->Subscribe("brief", 0, at[0].offset));
    MessageBatch batch;
    while ((polled = reader->Poll({}, &batch)) && batch.messages.empty()) {
    }
    if (!polled) continue;  // it was older than a second before it was read
    CHECK(batch.messages[0].event.data == "young");
  }
}

TEST_CASE("what a transaction of somebody else's leaves in a topic is vacant") {
  const auto transport = Must(KafkaTransport::Open(Options()));
  Must(transport->CreateTopic("transactions", 1));
  char text[512];
  rd_kafka_conf_t* const conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", TheCluster().broker.address().c_str(), text, sizeof text);
  rd_kafka_conf_set(conf, "transactional.id", "stranger", text, sizeof text);
  rd_kafka_t* const stranger = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
  REQUIRE_MESSAGE(stranger != nullptr, text);
  constexpr int kTimeoutMs = 20'000;
  const auto good = [](rd_kafka_error_t* error) { REQUIRE(error == nullptr); };
  good(rd_kafka_init_transactions(stranger, kTimeoutMs));
  for (int i = 0; i < 2; ++i) {
    good(rd_kafka_begin_transaction(stranger));
    REQUIRE(rd_kafka_producev(stranger, RD_KAFKA_V_TOPIC("transactions"), RD_KAFKA_V_PARTITION(0),
                              RD_KAFKA_V_VALUE(text, 1), RD_KAFKA_V_END) == RD_KAFKA_RESP_ERR_NO_ERROR);
    good(rd_kafka_commit_transaction(stranger, kTimeoutMs));
  }
  rd_kafka_destroy(stranger);
  const auto told_to = [](Subscription& from, uint64_t end) {
    MessageBatch batch;
    uint64_t told = 0;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (told < end && std::chrono::steady_clock::now() < deadline) {
      Must(from.Poll({}, &batch));
      for (const Message& message : batch.messages) told = message.offset + 1;
      told = std::max(told, batch.vacant_to);
    }
    CHECK(told == end);
  };
  // The last number is the second commit's: who waits for the end need not wait for a message.
  // A commit comes to the partition a moment after it was answered.
  const auto committed = std::chrono::steady_clock::now() + kPatience;
  while (Must(transport->End("transactions", 0)).offset < 4 &&
         std::chrono::steady_clock::now() < committed) {
  }
  CHECK(Must(transport->End("transactions", 0)).offset == 4);
  const auto early = Must(transport->Subscribe("transactions", 0, 0));
  told_to(*early, 4);
  early->Seek(3);
  told_to(*early, 4);
  Must(transport->Publish("transactions", {DataEvent("ours")}));
  told_to(*early, 5);

  const auto reader = Must(transport->Subscribe("transactions", 0, 0));
  MessageBatch batch;
  uint64_t next = 0, vacant = 0, count = 0;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (count < 3 && std::chrono::steady_clock::now() < deadline) {
    Must(reader->Poll({}, &batch));
    for (const Message& message : batch.messages) {
      CHECK(message.offset - message.vacant == next);
      next = message.offset + 1;
      vacant += message.vacant;
      ++count;
    }
  }
  CHECK(count == 3);
  CHECK(vacant == 2);  // the commits
}

struct User {
  std::string mechanism, name, password;
};
const User kPlainUser{"PLAIN", "plain", "open"};
const User kScramUsers[] = {{"SCRAM-SHA-256", "short", "open256"},
                            {"SCRAM-SHA-512", "long", "open512"}};

KafkaOptions Secured(const Cluster& cluster, const User& user) {
  auto options = Options();
  options.properties["bootstrap.servers"] = "localhost:" + std::to_string(cluster.tls_port);
  options.properties["security.protocol"] = "SASL_SSL";
  options.properties["ssl.ca.location"] = cluster.certificates.path() + "/ca.pem";
  options.properties["sasl.mechanism"] = user.mechanism;
  options.properties["sasl.username"] = user.name;
  options.properties["sasl.password"] = user.password;
  return options;
}

// A wrong password is refused; with the right one everything there is works.
void CheckUser(const Cluster& cluster, const User& user) {
  CAPTURE(user.mechanism);
  User wrong = user;
  wrong.password = "wrong-secret";
  const auto refused = KafkaTransport::Open(Secured(cluster, wrong));
  Refused(refused, ErrorClass::kInvalid,
          {"localhost:" + std::to_string(cluster.tls_port), "uthentication failed",
           "kafka.sasl.password"});
  CHECK(refused.error().Text().find(wrong.password) == std::string::npos);

  const auto transport = Must(KafkaTransport::Open(Secured(cluster, user)));
  Must(transport->CreateTopic("secured", 1));
  const auto at = Must(transport->Publish("secured", {DataEvent(user.name)}));
  const auto reader = Must(transport->Subscribe("secured", 0, at[0].offset));
  MessageBatch batch;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (batch.messages.empty() && std::chrono::steady_clock::now() < deadline)
    Must(reader->Poll({}, &batch));
  REQUIRE(batch.messages.size() == 1);
  CHECK(batch.messages[0].event.data == user.name);
  const auto member = Must(transport->Join("secured", "secured-" + user.name, user.name));
  CHECK(Must(member->Poll(kPatience)).held.size() == 1);
}

TEST_CASE("TLS and SASL") {
  const Cluster& cluster = TheCluster();
  CheckUser(cluster, kPlainUser);
  // Not its authority, no TLS at all, TLS where there is none.
  auto options = Secured(cluster, kPlainUser);
  options.properties["ssl.ca.location"] = cluster.certificates.path() + "/other-ca.pem";
  Refused(KafkaTransport::Open(options), ErrorClass::kInvalid,
          {"certificate", "kafka.ssl.ca.location"});
  options = Secured(cluster, kPlainUser);
  options.properties["security.protocol"] = "PLAINTEXT";
  options.timeout = std::chrono::milliseconds(1000);
  Refused(KafkaTransport::Open(options), ErrorClass::kUnavailable, {"kafka.security.protocol"});
  options = Secured(cluster, kPlainUser);
  options.properties["bootstrap.servers"] = "localhost:" + std::to_string(kPort);
  Refused(KafkaTransport::Open(options), ErrorClass::kInvalid, {"SSL", "kafka.security.protocol"});
  // No file there.
  options = Secured(cluster, kPlainUser);
  options.properties["ssl.ca.location"] = cluster.certificates.path() + "/none.pem";
  Refused(KafkaTransport::Open(options), ErrorClass::kInvalid, {"ssl.ca.location"});
}

TEST_CASE("SCRAM") {
  const Cluster older(kOlderPort, kOlderVersion);
  for (const User& user : kScramUsers) {
    CheckUser(older, user);
    if (rd_kafka_version() >= kScramWithKafka4) {
      CheckUser(TheCluster(), user);
    } else {
      Refused(KafkaTransport::Open(Secured(TheCluster(), user)), ErrorClass::kInvalid,
              {"SCRAM", "2.6.1"});
    }
  }
}

// What goes to standard error while this lives, the program's log among it.
class LogText {
 public:
  LogText() : before_(dup(STDERR_FILENO)), file_(folder_.Sub("log"), std::ios::in | std::ios::out | std::ios::trunc) {
    const int file = open(folder_.Sub("log").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    REQUIRE(dup2(file, STDERR_FILENO) >= 0);
    close(file);
    core::InitLog(core::LogLevel::kInfo);
  }
  ~LogText() {
    core::InitLog(core::LogLevel::kError);
    dup2(before_, STDERR_FILENO);
    close(before_);
  }
  // The lines since the last call.
  std::vector<std::string> NewLines() {
    std::vector<std::string> lines;
    file_.clear();
    for (std::string line; std::getline(file_, line);) lines.push_back(line);
    return lines;
  }

 private:
  test::TempFolder folder_;
  const int before_;
  std::fstream file_;
};

TEST_CASE("no broker is there") {
  LogText log;
  auto options = Options();
  options.properties["bootstrap.servers"] = "127.0.0.1:1";
  options.timeout = std::chrono::milliseconds(1000);
  Refused(KafkaTransport::Open(options), ErrorClass::kUnavailable,
          {"127.0.0.1:1", "deploy/kafka start", "kafka.bootstrap.servers"});
  // What librdkafka logs is in our log.
  const auto lines = log.NewLines();
  CHECK(std::any_of(lines.begin(), lines.end(), [](const std::string& line) {
    return line.find("kafka: FAIL: ") != std::string::npos && line.find("127.0.0.1:1") != std::string::npos;
  }));
}

// Of the first partition of a topic, in librdkafka's statistics; nothing when it is not followed.
std::optional<int64_t> Statistic(const std::string& json, const std::string& topic, const std::string& name) {
  auto at = json.find("\"" + topic + "\": {");
  if (at != std::string::npos) at = json.find("\"partitions\":{ \"0\": {", at);
  if (at != std::string::npos) at = json.find("\"" + name + "\":", at);
  if (at == std::string::npos) return std::nullopt;
  return std::strtoll(json.c_str() + at + name.size() + 3, nullptr, 10);
}

TEST_CASE("a partition whose reader does not come is paused, and the others go on") {
  LogText log;
  auto options = Options();
  options.properties["statistics.interval.ms"] = "100";
  options.properties["queued.min.messages"] = "1000";
  options.properties["fetch.message.max.bytes"] = "100000";
  const auto transport = Must(KafkaTransport::Open(options));
  Must(transport->CreateTopic("unread", 1));
  Must(transport->CreateTopic("beside", 1));
  constexpr uint64_t kEvents = 20'000;
  test::Random random(test::Seed(4));
  std::vector<events::Event> events;
  for (uint64_t i = 0; i < kEvents; ++i) events.push_back(DataEvent(test::RandomBytes(random, 200)));
  Must(transport->Publish("unread", events));
  const auto slow = Must(transport->Subscribe("unread", 0, 0));
  const auto beside = Must(transport->Subscribe("beside", 0, 0));
  MessageBatch batch;
  uint64_t next = 0;
  const auto read = [&](size_t messages_max) {
    Must(slow->Poll({.messages_max = messages_max}, &batch));
    for (const Message& message : batch.messages) CHECK(message.offset == next++);
  };
  const auto deadline = std::chrono::steady_clock::now() + 2 * kPatience;
  const auto in_time = [&] { return std::chrono::steady_clock::now() < deadline; };
  while (next == 0 && in_time()) read(1);
  // The other one goes on meanwhile. What waits for the first stays what it is.
  constexpr size_t kSame = 10;
  std::vector<int64_t> waiting;
  const auto stays = [&] {
    return waiting.size() >= kSame && waiting.back() >= 1000 &&
           waiting[waiting.size() - kSame] == waiting.back();
  };
  for (uint64_t count = 0; !stays(); ++count) {
    REQUIRE(in_time());
    Must(transport->Publish("beside", {DataEvent("x")}));
    do Must(beside->Poll({}, &batch));
    while (batch.messages.empty() && in_time());
    REQUIRE(batch.messages.size() == 1);
    CHECK(batch.messages[0].offset == count);
    for (const std::string& line : log.NewLines()) {
      const auto queued = Statistic(line, "unread", "fetchq_cnt");
      if (queued.value_or(0) > 0) waiting.push_back(*queued);
    }
  }
  CHECK(waiting.back() < 5000);
  while (next < kEvents && in_time()) read(1024);
  CHECK(next == kEvents);
}

TEST_CASE("a member whose owner is busy stays a member") {
  auto options = Options();
  options.properties["session.timeout.ms"] = "6000";
  options.properties["max.poll.interval.ms"] = "6000";
  const auto transport = Must(KafkaTransport::Open(options));
  Must(transport->CreateTopic("busy", 1));
  const auto busy = Must(transport->Join("busy", "workers", "busy"));
  REQUIRE(Must(busy->Poll(kPatience)).held.size() == 1);
  const auto other = Must(transport->Join("busy", "workers", "other"));
  // For longer than the interval nobody asks the first one.
  CHECK(Must(other->Poll(std::chrono::milliseconds(8000))).held.empty());
  CHECK(Must(busy->Poll(std::chrono::milliseconds(0))) == Share{{0}, {}});
}

TEST_CASE("a membership may end at any moment") {
  const auto transport = Must(KafkaTransport::Open(Options()));
  Must(transport->CreateTopic("ended", 1));
  constexpr int kRounds = 12;
  constexpr auto kStep = std::chrono::milliseconds(5);
  for (int round = 0; round < kRounds; ++round) {
    const auto member = Must(transport->Join("ended", "workers", "same"));
    std::this_thread::sleep_for(round * kStep);  // before, in and after its join
  }
  const auto member = Must(transport->Join("ended", "workers", "same"));
  CHECK(Must(member->Poll(kPatience)).held.size() == 1);
}

TEST_CASE("after its broker was away a member takes another one of its name for itself") {
  const auto transport = Must(KafkaTransport::Open(Options()));
  Must(transport->CreateTopic("forgotten", 1));
  const auto member = Must(transport->Join("forgotten", "workers", "same"));
  const auto holds = [&](const std::unique_ptr<Membership>& who) {
    const auto share = who->Poll(std::chrono::milliseconds(100));
    if (!share && !share.error().Retryable()) FAIL(share.error().Text());
    return share && share->held.size() == 1;
  };
  const auto deadline = std::chrono::steady_clock::now() + 2 * kPatience;
  const auto in_time = [&] { return std::chrono::steady_clock::now() < deadline; };
  while (!holds(member)) REQUIRE(in_time());
  TheCluster().broker.Run("stop");
  TheCluster().broker.Run("start");
  while (!holds(member)) REQUIRE(in_time());
  // As when the answer to its join was lost: the broker knows a newer one.
  const auto newer = Must(transport->Join("forgotten", "workers", "same"));
  Result<Share> told;
  while ((told = newer->Poll(std::chrono::milliseconds(100))) || told.error().Retryable()) {
    (void)holds(member);
    REQUIRE(in_time());
  }
  Refused(told, ErrorClass::kConflict, {"same"});
  while (!holds(member)) REQUIRE(in_time());
}

// Answers every request for API versions as a broker that knows this one request alone, in its
// oldest form, and nothing else. The first answer of a broker before 0.10 is even less.
class OldBroker {
 public:
  // `joins`: it knows groups, and members by name not yet, as those before Kafka 2.3.
  OldBroker(bool refuses_newer, bool joins) : refuses_newer_(refuses_newer), joins_(joins) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(listen(listener_, 8) == 0);
    socklen_t size = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  }
  ~OldBroker() {
    thread_ = {};
    close(listener_);
  }
  int port() const { return port_; }

 private:
  void Run(const std::stop_token& stop) {
    std::vector<pollfd> open{{listener_, POLLIN, 0}};
    while (!stop.stop_requested()) {
      constexpr int kStepMs = 50;
      poll(open.data(), open.size(), kStepMs);
      for (size_t i = 1; i < open.size(); ++i) {
        if (open[i].revents != 0 && !Answer(open[i].fd)) open[i].fd = -1 - (close(open[i].fd), 0);
      }
      if (open[0].revents != 0) {
        open.push_back({accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC), POLLIN, 0});
      }
    }
    for (size_t i = 1; i < open.size(); ++i) {
      if (open[i].fd >= 0) close(open[i].fd);
    }
  }
  bool Answer(int fd) const {
    uint32_t size;
    if (recv(fd, &size, sizeof size, MSG_WAITALL) != sizeof size) return false;
    std::string request(ntohl(size), '\0');
    if (recv(fd, request.data(), request.size(), MSG_WAITALL) !=
        static_cast<ssize_t>(request.size())) {
      return false;
    }
    constexpr char kApiVersions = 18, kMetadata = 3;
    if (request[1] == kMetadata && joins_) return Send(fd, request, Metadata());
    if (request[1] != kApiVersions) return true;  // not even an answer
    // An error code, and (request, from, to) of what it knows.
    using namespace std::string_literals;
    constexpr char kUnsupportedVersion = 35;
    std::string known = "\0\0\0\0\0\1\0\x12\0\0\0\0"s;
    if (joins_) known = "\0\0\0\0\0\3\0\x12\0\0\0\0\0\x0b\0\0\0\4\0\3\0\0\0\0"s;
    if (request[3] != 0 && refuses_newer_) known[1] = kUnsupportedVersion;
    return Send(fd, request, known);
  }
  static std::string Number(uint32_t number) {
    number = htonl(number);
    return {reinterpret_cast<const char*>(&number), sizeof number};
  }
  static bool Send(int fd, const std::string& request, const std::string& answer) {
    const std::string body = request.substr(4, 4) + answer;
    const std::string whole = Number(static_cast<uint32_t>(body.size())) + body;
    return send(fd, whole.data(), whole.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(whole.size());
  }
  // One broker, this one, and no topics.
  std::string Metadata() const {
    using namespace std::string_literals;
    const std::string host = "127.0.0.1";
    return Number(1) + Number(1) + "\0"s + static_cast<char>(host.size()) + host +
           Number(static_cast<uint32_t>(port_)) + Number(0);
  }

  const bool refuses_newer_;
  const bool joins_;
  int listener_ = -1;
  int port_ = 0;
  std::jthread thread_;
};

TEST_CASE("a broker that is too old") {
  const std::pair<bool, bool> brokers[] = {{true, false}, {false, false}, {true, true}};
  for (const auto& [refuses_newer, joins] : brokers) {
    CAPTURE(refuses_newer);
    CAPTURE(joins);
    OldBroker old(refuses_newer, joins);
    auto options = Options();
    options.properties["bootstrap.servers"] = "127.0.0.1:" + std::to_string(old.port());
    options.timeout = std::chrono::milliseconds(2000);
    Refused(KafkaTransport::Open(options), ErrorClass::kUnsupported,
            {joins ? "it cannot be used: a broker is older than Kafka 2.3" : "no broker answers", "2.3"});
  }
}

TEST_CASE("a relay publishes once what a producer that failed for good had not reported") {
  constexpr int kInputs = 4000, kBatch = 100;
  const test::TempFolder temp;
  const auto transport = Must(KafkaTransport::Open(Options()));
  Must(transport->CreateTopic("asked", 1));
  Must(transport->CreateTopic("counted", 1, {.owner = "counter"}));
  runtime::ShardOptions shard_options;
  shard_options.path = temp.Sub("shard");
  shard_options.name = "counter-0";
  shard_options.has_log = true;
  shard_options.resources = test::SmallResources();
  const auto shard = Must(runtime::Shard::Open(shard_options));
  test::Counter counter;
  runtime::RunnerOptions input;
  input.topic = "asked";
  const auto ownership = Must(runtime::ClaimTopic({}, shard.get(), &counter, transport.get(), "counted", 0, input, nullptr));
  REQUIRE(ownership.has_value());
  runtime::DeciderRunner runner(shard.get(), &counter, transport.get(), input);
  Must(runner.Start());
  runtime::Relay relay(shard.get(), transport.get(), "counted", 0, *ownership);
  Must(relay.Start());
  int failures = 0;
  std::vector<events::Event> batch;
  for (int i = 0; i < kInputs; ++i) {
    batch.push_back(test::CountInput("k" + std::to_string(i % 7), 2));
    if (batch.size() < kBatch) continue;
    if (i / kBatch % 4 == 0) {
      transport->FailProducerForTest();
      ++failures;
    }
    // The same events count once.
    while (!transport->Publish("asked", batch)) {
    }
    batch.clear();
  }
  REQUIRE(relay.status().WaitApplied(2 * kInputs, kPatience));
  CHECK(failures == kInputs / kBatch / 4);
  const auto decided = test::ReadLog(*shard->log());
  CHECK(decided.size() == 2 * kInputs);
  CHECK(test::ReadTopic(*transport, "counted") == decided);
}

TEST_CASE("a producer that fails for good is followed by another one") {
  const auto transport = Must(KafkaTransport::Open(Options()));
  Must(transport->CreateTopic("fatal", 1));
  constexpr uint64_t kBatch = 2000;
  constexpr uint64_t kAfterwards = 5 * kBatch;
  std::atomic<uint64_t> acknowledged{0};
  std::atomic<uint64_t> errors{0};
  std::atomic<bool> stop{false};
  std::jthread publisher([&] {
    while (!stop) {
      std::vector<events::Event> batch;
      for (uint64_t i = 0; i < kBatch; ++i) {
        batch.push_back(DataEvent(std::to_string(acknowledged + i)));
      }
      const auto published = transport->Publish("fatal", batch);
      if (published) {
        acknowledged += kBatch;
      } else if (published.error().Retryable()) {
        ++errors;
      } else {
        FAIL_CHECK(published.error().Text());
        return;
      }
    }
  });
  // Until it strikes in the middle of a publish.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  uint64_t before;
  std::chrono::milliseconds delay{0};  // after an acknowledgement: another one each time
  do {
    before = acknowledged;
    std::this_thread::sleep_for(delay);
    delay = (delay + std::chrono::milliseconds(1)) % std::chrono::milliseconds(50);
    transport->FailProducerForTest();
    while (acknowledged < before + kBatch && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  } while (errors == 0 && std::chrono::steady_clock::now() < deadline);
  before = acknowledged;
  while (acknowledged < before + kAfterwards && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  stop = true;
  publisher.join();
  CHECK(errors > 0);
  CHECK(acknowledged >= before + kAfterwards);
  // All of them in order; what was tried again may be there twice.
  const auto reader = Must(transport->Subscribe("fatal", 0, 0));
  uint64_t seen = 0, wrong = 0;
  MessageBatch batch;
  while (seen < acknowledged) {
    Must(reader->Poll({}, &batch));
    for (const Message& message : batch.messages) {
      const uint64_t number = std::stoull(std::string(message.event.data));
      if (number > seen) ++wrong;
      if (number == seen) ++seen;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace leat::bus
