// What only RabbitMQ has: retention of streams, queues that are there otherwise, TLS, what is
// routed nowhere, alarms. One broker for all, and one that begins with an alarm.
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "bus/rabbitmq/rabbitmq_transport.h"
#include "tests/support/broker.h"
#include "tests/support/test_support.h"

namespace leat::bus {
namespace {

using test::DataEvent;
using test::Must;

constexpr int kPort = 19972;  // and two behind it
constexpr int kTlsPort = kPort + 3;
constexpr int kAlarmedPort = kPort + 10;
constexpr auto kPatience = std::chrono::seconds(40);

struct Node {
  test::TempFolder certificates;
  test::Broker broker;

  Node() : broker("rabbitmq", kPort, Properties(certificates.path())) {}

  static std::string Properties(const std::string& folder) {
    REQUIRE(std::system((test::SourceDir() + "/tests/support/certificates " + folder).c_str()) == 0);
    return "listeners.ssl.1 = 127.0.0.1:" + std::to_string(kTlsPort) +
           "\nssl_options.cacertfile = " + folder + "/ca.pem\nssl_options.certfile = " + folder +
           "/server.pem\nssl_options.keyfile = " + folder +
           "/server.key\nssl_options.verify = verify_peer\n"
           "ssl_options.fail_if_no_peer_cert = false\n";
  }
};

// Listens on a port of its own.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(listen(fd_, 8) == 0);
    socklen_t size = sizeof address;
    REQUIRE(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { close(fd_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  // Negative once it was stopped.
  int Accept() const { return accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC); }
  void Stop() const { shutdown(fd_, SHUT_RDWR); }
  uint16_t port() const { return port_; }

 private:
  const int fd_;
  uint16_t port_ = 0;
};

// Lets anybody in, and says that it is RabbitMQ 3.8.
class OldBroker {
 public:
  OldBroker() {
    thread_ = std::jthread([this] {
      // Several connections may try, until nobody accepts any more.
      for (int fd; (fd = listener_.Accept()) >= 0; close(fd)) LetIn(fd);
    });
  }
  ~OldBroker() {
    listener_.Stop();
    thread_.join();
  }
  uint16_t port() const { return listener_.port(); }

 private:
  static std::string Number(uint32_t value, size_t bytes) {
    std::string out;
    while (bytes-- > 0) out.push_back(static_cast<char>(value >> 8 * bytes));
    return out;
  }
  static std::string Long(const std::string& text) {
    return Number(static_cast<uint32_t>(text.size()), 4) + text;
  }
  static std::string Method(uint32_t id, const std::string& arguments) {
    constexpr uint32_t kConnection = 10;
    return Number(1, 1) + Number(0, 2) + Long(Number(kConnection, 2) + Number(id, 2) + arguments) + "\xce";
  }
  static void LetIn(int fd) {
    constexpr uint32_t kStart = 10, kTune = 30, kOpenOk = 41;
    const std::string version = std::string("\x07product") + "S" + Long("RabbitMQ") + "\x07version" + "S" + Long("3.8.34");
    const std::string answers[] = {
        Method(kStart, Number(9, 2) + Long(version) + Long("PLAIN") + Long("en_US")),  // 0-9
        Method(kTune, Number(2047, 2) + Number(131072, 4) + Number(0, 2)),
        Method(kOpenOk, Number(0, 1))};
    char buffer[4096];
    for (const std::string& answer : answers) {
      if (recv(fd, buffer, sizeof buffer, 0) <= 0) return;
      if (send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) return;
    }
    while (recv(fd, buffer, sizeof buffer, 0) > 0) {
    }
  }

  const Listener listener_;
  std::jthread thread_;
};

Node& TheNode() {
  static Node node;
  return node;
}

RabbitMqOptions Options() {
  RabbitMqOptions options;
  options.port = static_cast<uint16_t>(TheNode().broker.port());
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

// Somebody else at the broker.
class Stranger {
 public:
  Stranger() : connection_(amqp_new_connection()) {
    amqp_socket_t* const socket = amqp_tcp_socket_new(connection_);
    REQUIRE(amqp_socket_open(socket, "127.0.0.1", TheNode().broker.port()) == AMQP_STATUS_OK);
    constexpr int kFrameBytes = 131'072;
    REQUIRE(
        amqp_login(connection_, "/", 0, kFrameBytes, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")
            .reply_type == AMQP_RESPONSE_NORMAL);
    amqp_channel_open(connection_, 1);
    Good();
  }
  ~Stranger() { amqp_destroy_connection(connection_); }

  void Declare(const std::string& queue) {
    constexpr amqp_boolean_t kNo = 0, kDurable = 1;
    amqp_queue_declare(connection_, 1, amqp_cstring_bytes(queue.c_str()), kNo, kDurable, kNo, kNo,
                       amqp_empty_table);
    Good();
  }
  void Delete(const std::string& queue) {
    amqp_queue_delete(connection_, 1, amqp_cstring_bytes(queue.c_str()), 0, 0);
    Good();
  }
  void DeleteExchange(const std::string& exchange) {
    amqp_exchange_delete(connection_, 1, amqp_cstring_bytes(exchange.c_str()), 0);
    Good();
  }

 private:
  void Good() { REQUIRE(amqp_get_rpc_reply(connection_).reply_type == AMQP_RESPONSE_NORMAL); }
  amqp_connection_state_t connection_;
};

TEST_CASE("a broker that is too old") {
  OldBroker old;
  RabbitMqOptions options;
  options.port = old.port();
  options.timeout = std::chrono::milliseconds(5000);
  Refused(RabbitMqTransport::Open(options), ErrorClass::kUnsupported, {"3.8.34", "3.9", "rabbitmq.host"});
}

TEST_CASE("a topic that is there is checked against what was wanted") {
  const auto transport = Must(RabbitMqTransport::Open(Options()));
  const TopicOptions hour{.retention = std::chrono::hours(1)};
  Must(transport->CreateTopic("kept", 2));
  Must(transport->CreateTopic("hour", 2, hour));
  Must(transport->CreateTopic("hour", 2, hour));
  Refused(transport->CreateTopic("kept", 3), ErrorClass::kConflict,
          {"kept", "2 partitions", "not 3"});
  Refused(transport->CreateTopic("kept", 2, hour), ErrorClass::kConflict,
          {"kept", "for ever", "3600000 ms"});
  // Another process sees the same.
  const auto other = Must(RabbitMqTransport::Open(Options()));
  Must(other->CreateTopic("hour", 2, hour));
  Refused(other->CreateTopic("hour", 2), ErrorClass::kConflict, {"hour", "for ever", "3600000 ms"});
  // A queue that somebody made by hand.
  Stranger().Declare("leat.taken.0");
  Refused(transport->CreateTopic("taken", 1), ErrorClass::kConflict,
          {"leat.taken.0", "406", "x-queue-type", "topics.prefix"});
  Must(transport->CreateTopic("not-taken", 1));  // that was no harm to the rest
}

// Polls until messages come, or an error that does not pass. Whoever begins in a segment that the broker is taking away is
// answered with 541, and has to try again.
Status Next(Subscription& reader, MessageBatch* got) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  Status polled;
  do {
    polled = reader.Poll({}, got);
  } while ((polled || polled.error().Retryable()) && got->messages.empty() &&
           std::chrono::steady_clock::now() < deadline);
  return polled;
}

TEST_CASE("what is older than a topic's retention goes") {
  const auto transport = Must(RabbitMqTransport::Open(Options()));
  Must(transport->CreateTopic("brief", 1, {.retention = std::chrono::seconds(1)}));
  const std::vector<events::Event> batch(4, DataEvent(std::string(1 << 20, 'x')));
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  MessageBatch got;
  Status polled;
  while (polled && std::chrono::steady_clock::now() < deadline) {
    Must(transport->PublishTo("brief", 0, batch));
    Must(transport->OffsetAt("brief", 0, 0));
    const auto reader = Must(transport->Subscribe("brief", 0, 0));
    polled = Next(*reader, &got);
  }
  Refused(polled, ErrorClass::kNotFound, {"leat.brief.0", "offset 0", "it begins at"});
  // What is younger is there, and seeking to it is.
  const auto at = Must(transport->Publish("brief", {DataEvent("young")}));
  const auto reader = Must(transport->Subscribe("brief", 0, 0));
  Refused(Next(*reader, &got), ErrorClass::kNotFound, {"offset 0"});
  reader->Seek(at[0].offset);
  Must(Next(*reader, &got));
  REQUIRE_FALSE(got.messages.empty());
  CHECK(got.messages[0].event.data == "young");
}

// RabbitMQ's own tool, for that node.
void Control(const test::Broker& broker, const std::string& arguments) {
  const std::string command =
      "env -i HOME=" + broker.folder() + " LANG=C.UTF-8 PATH=\"$PATH\" RABBITMQ_CONF_ENV_FILE=" +
      broker.folder() + "/env.conf RABBITMQ_NODENAME=leat" + std::to_string(broker.port()) +
      "@localhost ERL_EPMD_PORT=" + std::to_string(broker.port() + 2) +
      " $(dpkg -L rabbitmq-server | grep '/lib/.*/sbin/rabbitmqctl$') " + arguments;
  REQUIRE(std::system(command.c_str()) == 0);
}

// Runs Erlang in the node.
void Evaluate(const std::string& code) { Control(TheNode().broker, "eval '" + code + "'"); }

// From `next` on, until `count` messages are read: offsets that have none must be vacant.
std::vector<std::string> ReadOn(Subscription& reader, uint64_t next, size_t count,
                                uint64_t* vacant) {
  std::vector<std::string> out;
  MessageBatch batch;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (out.size() < count && std::chrono::steady_clock::now() < deadline) {
    Must(reader.Poll({}, &batch));
    for (const Message& message : batch.messages) {
      CHECK(message.offset - message.vacant == next);
      *vacant += message.vacant;
      next = message.offset + 1;
      out.emplace_back(message.event.data.substr(0, 3));
    }
  }
  return out;
}

TEST_CASE("numbers that the broker keeps for itself are vacant, and nothing is missing") {
  const auto transport = Must(RabbitMqTransport::Open(Options()));
  // A retention makes segments small: each begins with a number of the broker's.
  Must(transport->CreateTopic("own", 1, {.retention = std::chrono::hours(1)}));
  std::vector<uint64_t> offsets;
  std::vector<std::string> expected;
  const auto publish = [&](size_t bytes, size_t count) {
    std::vector<events::Event> batch;
    for (size_t i = 0; i < count; ++i) {
      expected.push_back(std::to_string(100 + expected.size()));
      batch.push_back(DataEvent(expected.back() + std::string(bytes, 'x')));
    }
    for (const auto& at : Must(transport->Publish("own", batch))) offsets.push_back(at.offset);
  };
  for (int i = 0; i < 12; ++i) publish(1 << 20, 1);
  publish(10, 600);  // more than are sent without being acknowledged
  // And so does what those who read with the broker's own protocol have it remember, as often as they like.
  Evaluate(
      "{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"leat.own.0\">>)), "
      "#{leader_pid := P} = amqqueue:get_type_state(Q), "
      "[begin osiris:write_tracking(P, <<\"r\">>, {offset, N}), timer:sleep(50) end || N <- [1, 2, 3]].");
  for (int i = 0; i < 3; ++i) publish(10, 1);
  CHECK(Must(transport->End("own", 0)).offset == offsets.back() + 1);

  const auto reader = Must(transport->Subscribe("own", 0, 0));
  uint64_t vacant = 0;
  CHECK(ReadOn(*reader, 0, expected.size(), &vacant) == expected);
  CHECK(vacant == offsets.back() + 1 - expected.size());
  CHECK(vacant > 3);
  // Whoever goes on behind a message, also behind the last one before such numbers, has all that follows.
  for (size_t i = 0; i < offsets.size(); ++i) {
    if (i > 15 && i + 6 < offsets.size()) continue;
    const uint64_t next = i == 0 ? 0 : offsets[i - 1] + 1;
    reader->Seek(next);
    uint64_t ignored = 0;
    const auto got = ReadOn(*reader, next, expected.size() - i, &ignored);
    CHECK(got == std::vector<std::string>(expected.begin() + static_cast<long>(i), expected.end()));
  }
}

TEST_CASE("TLS and users") {
  const std::string folder = TheNode().certificates.path();
  auto secured = Options();
  secured.host = "localhost";
  secured.port = kTlsPort;
  secured.tls = true;
  secured.tls_ca_file = folder + "/ca.pem";
  const auto use = [](const RabbitMqOptions& options, const std::string& topic) {
    const auto transport = Must(RabbitMqTransport::Open(options));
    Must(transport->CreateTopic(topic, 1));
    const auto at = Must(transport->Publish(topic, {DataEvent("x")}));
    const auto reader = Must(transport->Subscribe(topic, 0, at[0].offset));
    MessageBatch batch;
    while (batch.messages.empty()) Must(reader->Poll({}, &batch));
    CHECK(batch.messages[0].event.data == "x");
    const auto member = Must(transport->Join(topic, "secured", "a"));
    CHECK(Must(member->Poll(kPatience)).held.size() == 1);
  };
  use(secured, "secured");
  auto with_certificate = secured;
  with_certificate.tls_certificate_file = folder + "/client.pem";
  with_certificate.tls_key_file = folder + "/client.key";
  use(with_certificate, "secured.client");

  auto options = secured;
  options.tls_ca_file = folder + "/other-ca.pem";
  Refused(RabbitMqTransport::Open(options), ErrorClass::kInvalid,
          {"localhost:" + std::to_string(kTlsPort), "certificate", "rabbitmq.tls_ca_file"});
  options = secured;
  options.tls_ca_file = folder + "/none.pem";
  Refused(RabbitMqTransport::Open(options), ErrorClass::kInvalid, {"none.pem"});
  options = secured;
  options.port = kPort;
  options.timeout = std::chrono::milliseconds(2000);
  Refused(RabbitMqTransport::Open(options), ErrorClass::kUnavailable, {"rabbitmq.tls"});
  options = secured;
  options.tls = false;
  options.timeout = std::chrono::milliseconds(2000);
  Refused(RabbitMqTransport::Open(options), ErrorClass::kUnavailable, {"rabbitmq.tls"});

  options = Options();
  options.password = "wrong-secret";
  const auto refused = RabbitMqTransport::Open(options);
  Refused(refused, ErrorClass::kInvalid,
          {"ACCESS_REFUSED", "rabbitmq.username", "rabbitmq.password"});
  CHECK(refused.error().Text().find(options.password) == std::string::npos);
  options = Options();
  options.vhost = "nowhere";
  Refused(RabbitMqTransport::Open(options), ErrorClass::kInvalid, {"nowhere", "rabbitmq.vhost"});
}

TEST_CASE("no broker is there") {
  auto options = Options();
  options.port = 1;
  options.timeout = std::chrono::milliseconds(1000);
  Refused(RabbitMqTransport::Open(options), ErrorClass::kUnavailable,
          {"127.0.0.1:1", "deploy/rabbitmq start", "rabbitmq.port"});
}

TEST_CASE("what is routed nowhere is told to who published it") {
  const auto transport = Must(RabbitMqTransport::Open(Options()));
  Must(transport->CreateTopic("routed", 2));
  Stranger().Delete("leat.routed.1");
  std::atomic<int> wrong{0};
  {
    // The other partition's publishes are not concerned.
    std::jthread other([&] {
      for (int i = 0; i < 100; ++i) {
        if (!transport->PublishTo("routed", 0, {DataEvent("x"), DataEvent("y")})) ++wrong;
      }
    });
    for (int i = 0; i < 20; ++i) {
      Refused(transport->PublishTo("routed", 1, {DataEvent("x")}), ErrorClass::kNotFound,
              {"create its topic"});
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("what somebody deleted of a topic is made again by who creates it") {
  auto options = Options();
  options.exchange = "leat-deleted";
  const auto transport = Must(RabbitMqTransport::Open(options));
  const auto publish = [&](const std::string& topic, uint32_t partition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    for (;;) {
      const auto published = transport->PublishTo(topic, partition, {DataEvent("x")});
      // Retryable is what it says while it connects anew.
      if (published || !published.error().Retryable()) return published;
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      constexpr auto kPause = std::chrono::milliseconds(50);
      std::this_thread::sleep_for(kPause);  // there is nothing to wait on
    }
  };
  for (const bool streams : {true, false}) {
    for (const bool by_another : {false, true}) {
      CAPTURE(streams);
      CAPTURE(by_another);
      const std::string topic = "remade-" + std::to_string(streams) + std::to_string(by_another);
      Must(transport->CreateTopic(topic, 3));
      Must(transport->PublishTo(topic, 0, {DataEvent("kept")}));
      if (streams) {
        for (const char* partition : {".1", ".2"}) {
          Stranger().Delete(options.exchange + "." + topic + partition);
        }
      } else {
        Stranger().DeleteExchange(options.exchange);  // and with it what was bound
      }
      Refused(publish(topic, 2), ErrorClass::kNotFound, {"create its topic"});
      const auto other = by_another ? Must(RabbitMqTransport::Open(options)) : nullptr;
      Must((by_another ? other : transport)->CreateTopic(topic, 3));
      for (const uint32_t partition : {0, 1, 2}) Must(publish(topic, partition));
      // What was there still is.
      const auto subscription = Must(transport->Subscribe(topic, 0, 0));
      MessageBatch batch;
      PollLimits limits;
      limits.timeout = kPatience;
      Must(subscription->Poll(limits, &batch));
      REQUIRE_FALSE(batch.messages.empty());
      CHECK(batch.messages[0].event.data == "kept");
    }
  }
}

TEST_CASE("a lease that is renewed stays where it is") {
  auto options = Options();
  options.lease_renewal = std::chrono::milliseconds(1);  // at every look of the member
  options.lease_heartbeat_s = 1;
  const auto transport = Must(RabbitMqTransport::Open(options));
  Must(transport->CreateTopic("renewed", 1));
  const auto holder = Must(transport->Join("renewed", "workers", "holder"));
  REQUIRE(Must(holder->Poll(kPatience)).held.size() == 1);
  const auto other = Must(transport->Join("renewed", "workers", "other"));
  // Several renewals, and as many heartbeats while nobody asks the holder anything; nothing is told of them.
  CHECK(Must(other->Poll(std::chrono::milliseconds(8000))).held.empty());
  CHECK(Must(holder->Poll(std::chrono::milliseconds(0))) == Share{{0}, {}});
}

// Between a client and the broker: counts what is published, and can keep the broker's confirms to itself.
class Proxy {
 public:
  explicit Proxy(uint16_t broker)
      : broker_(broker), accepting_([this] {
          for (int client; (client = listener_.Accept()) >= 0;) Connect(client);
        }) {}
  ~Proxy() {
    listener_.Stop();
    accepting_.join();
    {
      std::lock_guard lock(mutex_);
      for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    pumps_.clear();
    for (const int fd : open_) close(fd);
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  uint16_t port() const { return listener_.port(); }
  uint64_t published() const { return published_; }
  void KeepConfirms() {
    std::lock_guard lock(mutex_);
    keeps_ = true;
  }
  // One confirm for all that were kept, and from then on the broker's own.
  void ConfirmAtOnce() {
    std::lock_guard lock(mutex_);
    keeps_ = false;
    REQUIRE(kept_.size() > kMultiple);
    kept_[kMultiple] = 1;
    Send(kept_from_, kept_);
  }

 private:
  static constexpr size_t kHead = 7;                     // type, channel, size
  static constexpr size_t kMultiple = kHead + 2 + 2 + 8;  // behind class, method and tag of an ack
  static constexpr std::string_view kPublish{"\0\x3c\0\x28", 4}, kAck{"\0\x3c\0\x50", 4};

  void Connect(int client) {
    const int broker = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(broker_);
    REQUIRE(connect(broker, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    std::lock_guard lock(mutex_);
    open_.insert(open_.end(), {client, broker});
    pumps_.emplace_back([this, client, broker] { Pump(client, broker, true); });
    pumps_.emplace_back([this, client, broker] { Pump(broker, client, false); });
  }
  static bool Receive(int fd, size_t count, std::string* out) {
    const size_t begin = out->size();
    out->resize(begin + count);
    return recv(fd, out->data() + begin, count, MSG_WAITALL) == static_cast<ssize_t>(count);
  }
  static void Send(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  void Pump(int from, int to, bool of_client) {
    std::string frame;
    constexpr size_t kGreeting = 8;
    if (of_client && Receive(from, kGreeting, &frame)) Send(to, frame);
    for (frame.clear(); Receive(from, kHead, &frame); frame.clear()) {
      uint32_t size;
      memcpy(&size, frame.data() + 3, sizeof size);
      if (!Receive(from, ntohl(size) + 1, &frame)) break;
      const std::string_view method = frame[0] == 1 ? std::string_view(frame).substr(kHead, 4) : "";
      if (of_client && method == kPublish) ++published_;
      std::unique_lock lock(mutex_, std::defer_lock);
      if (!of_client) lock.lock();
      if (!of_client && keeps_ && method == kAck) {
        kept_ = frame;
        kept_from_ = to;
        continue;
      }
      Send(to, frame);
    }
    shutdown(to, SHUT_RDWR);
  }

  const uint16_t broker_;
  const Listener listener_;
  std::atomic<uint64_t> published_{0};
  std::mutex mutex_;
  bool keeps_ = false;     // guarded by mutex_, as all below
  std::string kept_;       // the newest confirm
  int kept_from_ = -1;     // who was to have it
  std::vector<int> open_;
  std::vector<std::jthread> pumps_;
  std::jthread accepting_;
};

TEST_CASE("what is not confirmed is bounded, and one confirm may stand for all") {
  constexpr uint64_t kWindow = 4096, kEvents = 10'000;
  Proxy proxy(static_cast<uint16_t>(TheNode().broker.port()));
  auto options = Options();
  options.port = proxy.port();
  const auto transport = Must(RabbitMqTransport::Open(options));
  Must(transport->CreateTopic("windowed", 1));
  const uint64_t before = proxy.published();
  proxy.KeepConfirms();
  std::jthread publisher(
      [&] { Must(transport->PublishTo("windowed", 0, std::vector<events::Event>(kEvents, DataEvent("x")))); });
  const auto until = [&](uint64_t count) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (proxy.published() < before + count && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  };
  until(kWindow);
  // Nothing more is sent, also while heartbeats and other frames go by.
  constexpr auto kWaits = std::chrono::seconds(1);
  std::this_thread::sleep_for(kWaits);
  CHECK(proxy.published() == before + kWindow);
  proxy.ConfirmAtOnce();
  publisher.join();
  CHECK(proxy.published() == before + kEvents);
  CHECK(Must(transport->End("windowed", 0)).offset == kEvents);
}

TEST_CASE("a broker that hangs up is tried again with growing pauses") {
  Listener listener;
  std::atomic<int> tries{0};
  std::jthread broker([&] {
    for (int fd; (fd = listener.Accept()) >= 0; close(fd)) ++tries;
  });
  auto options = Options();
  options.port = listener.port();
  options.timeout = std::chrono::milliseconds(3000);
  Refused(RabbitMqTransport::Open(options), ErrorClass::kUnavailable, {std::to_string(options.port)});
  listener.Stop();
  // Two connections, after 0, 50, 150, 350, 750 and 1,550 ms.
  CHECK(tries >= 4);
  CHECK(tries <= 2 * 6);
}

// How much room the broker wants on the disk, in bytes; with less it has an alarm.
void SetDiskFreeLimit(const test::Broker& broker, uint64_t bytes) {
  Control(broker, "set_disk_free_limit " + std::to_string(bytes));
}

TEST_CASE("publishers wait while the broker has an alarm, and go on after it; as many channels as it allows") {
  constexpr int kChannels = 12;
  test::Broker broker("rabbitmq", kAlarmedPort, "channel_max = " + std::to_string(kChannels) + "\n");
  SetDiskFreeLimit(broker, 1'000'000'000'000'000);
  RabbitMqOptions options;
  options.port = kAlarmedPort;
  options.timeout = options.confirm_timeout = std::chrono::milliseconds(5000);
  {
    // A connection is blocked behind its first message, which is the first of the list of topics.
    const auto transport = Must(RabbitMqTransport::Open(options));
    Refused(transport->CreateTopic("waited", 1), ErrorClass::kUnavailable,
            {"no confirm within 5000 ms", "the broker has an alarm", "low on disk"});
  }

  options.confirm_timeout = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
  std::atomic<bool> done{false};
  std::jthread publisher([&] {
    const auto transport = Must(RabbitMqTransport::Open(options));
    Must(transport->CreateTopic("waited", 1));
    Must(transport->Publish("waited", {DataEvent("x")}));
    done = true;
  });
  constexpr auto kWaits = std::chrono::seconds(1);  // to see that nothing happens
  std::this_thread::sleep_for(kWaits);
  CHECK_FALSE(done);
  SetDiskFreeLimit(broker, 50'000'000);
  publisher.join();
  CHECK(done);

  const auto transport = Must(RabbitMqTransport::Open(options));
  Must(transport->CreateTopic("many", 2 * kChannels));
  uint32_t followed = 0;
  Result<PartitionEnd> end;
  while (followed < 2 * kChannels && (end = transport->End("many", followed))) ++followed;
  CHECK(followed == kChannels - 1);  // and the list of topics
  Refused(end, ErrorClass::kExhausted, {"12 partitions are followed", "channel_max"});
  CHECK(Must(transport->End("many", 0)).offset == 0);  // the others go on
  Must(transport->PublishTo("many", 2 * kChannels - 1, {DataEvent("x")}));
  // Every seek takes the next channel.
  const auto reader = Must(transport->Subscribe("many", 2 * kChannels - 1, 0));
  for (int seeks = 0; seeks < 2 * kChannels; ++seeks) {
    MessageBatch got;
    Must(Next(*reader, &got));
    REQUIRE(got.messages.size() == 1);
    reader->Seek(0);
  }
  // When all have to be followed anew, those that were have their channels before what was refused.
  broker.Run("kill");
  broker.Run("start");
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    const auto topics = transport->Topics();
    if (topics) CHECK(topics->size() == 2);
    if (topics) break;
    CHECK(topics.error().Retryable());
  }
  for (uint32_t partition = 0; partition < followed; ++partition) {
    while (!(end = transport->End("many", partition)) && end.error().Retryable() &&
           std::chrono::steady_clock::now() < deadline) {
    }
    CHECK(Must(end).offset == 0);
  }
}

}  // namespace
}  // namespace leat::bus
