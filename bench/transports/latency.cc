// How long it takes until an event can be seen in a query, at 1,000 events a second.
//
// usage: bench_latency FOLDER [KAFKA_BOOTSTRAP=127.0.0.1:19092] [SECONDS=5] [ROUNDS=5]
//        (deploy/kafka start; FOLDER is for data, on the disk that is meant)
//
// Kafka, each for SECONDS a round and in turns:
//   bare        from produce to consume, by librdkafka alone, the broker and the settings of bus/kafka
//   projection  a posting on the balances' input topic: from produce to where a view has its account
//   two hops    a block on chain.blocks: the ledger decides, syncs, and relays to ledger.entries; the
//               balances read that: from produce to where a view has the account it pays
// All three are produced by the same bare producer (acks=all, idempotent, no lingering), so what differs
// is what the product does. Embedded:
//   fdatasync   4 KiB appended to a file in FOLDER and synced
//   embedded    a posting published (synced before it is acknowledged) to where a view has its account
// Time runs from when an event was due: one that could not be sent in time counts as late. Exits with 1
// when a target is missed.
#include <fcntl.h>
#include <librdkafka/rdkafka.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "bench/transports/targets.h"
#include "bus/embedded/embedded_transport.h"
#include "bus/kafka/kafka_transport.h"
#include "chain/v1/chain.pb.h"
#include "consumers/balances/service.h"
#include "core/hash.h"
#include "core/log.h"
#include "events/registry.h"
#include "producers/ledger/service.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kEventsPerSecond = 1000;
constexpr int kEmbeddedPublishers = 16;
constexpr std::string_view kChain = "eip155:1";
constexpr uint32_t kChainNumber = 1;  // of the first chain that the balances see
constexpr auto kPatience = std::chrono::seconds(60);

void Die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}
template <typename T>
T Must(leat::Result<T> result) {
  if (!result) Die(result.error().Text());
  return std::move(*result);
}
void Must(const leat::Status& status) {
  if (!status) Die(status.error().Text());
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// In microseconds.
struct Latencies {
  std::vector<double> all;
  void Add(const Latencies& more) {
    all.insert(all.end(), more.all.begin(), more.all.end());
  }
  double At(double quantile) const {
    std::vector<double> sorted = all;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(quantile * static_cast<double>(sorted.size() - 1))];
  }
};
double Since(Clock::time_point due) {
  return std::chrono::duration<double, std::micro>(Clock::now() - due).count();
}
Clock::time_point DueAt(Clock::time_point begun, uint64_t i) {
  return begun + std::chrono::microseconds(1'000'000 / kEventsPerSecond) * i;
}

// The account that event number i moves value to.
leat::Address AccountOf(uint64_t i) {
  return leat::Address::From(
      leat::core::Sha256("account " + std::to_string(i)).View().substr(0, leat::Address::kSize));
}
std::string RowOf(uint64_t i) {
  return leat::balances::AccountRowKey(kChainNumber,
                                       leat::balances::AccountKey::Mirrored(AccountOf(i)));
}
std::string PostingOf(uint64_t i) {
  leat::ledger::v1::EntriesPosted posting;
  posting.set_chain(std::string(kChain));
  posting.set_block_number(i);
  auto* leg = posting.add_legs();
  leg->set_address(std::string(AccountOf(i).View()));
  leg->set_magnitude(leat::Amount(i + 1).Magnitude());
  return posting.SerializeAsString();
}
std::string BlockOf(uint64_t i) {
  const auto hash = [](uint64_t number) {
    return std::string(leat::core::Sha256("block " + std::to_string(number)).View());
  };
  leat::chain::v1::BlockObserved block;
  block.set_chain(std::string(kChain));
  block.set_part(1);
  block.set_parts(1);
  auto* header = block.mutable_header();
  header->set_number(i + 1);
  header->set_hash(hash(i + 1));
  header->set_parent_hash(hash(i));
  header->set_miner(std::string(AccountOf(UINT64_MAX).View()));
  header->set_timestamp_s(1'500'000'000 + i);
  auto* transaction = block.add_transactions();
  transaction->set_hash(hash(i));
  transaction->set_from(std::string(AccountOf(UINT64_MAX - 1).View()));
  transaction->set_to(std::string(AccountOf(i).View()));
  transaction->set_value(leat::Amount(i + 1).Magnitude());
  transaction->set_outcome(leat::chain::v1::OUTCOME_SUCCESS);
  block.mutable_coverage()->set_statuses(true);
  block.mutable_coverage()->set_transaction_count(1);
  return block.SerializeAsString();
}

// Produces with the settings of bus/kafka, events in the CloudEvents binding.
class Producer {
 public:
  explicit Producer(const std::string& servers) {
    const std::pair<const char*, const char*> settings[] = {
        {"enable.idempotence", "true"}, {"acks", "all"},
        {"compression.codec", "lz4"},   {"linger.ms", "0"},
        {"socket.nagle.disable", "true"}};
    char error[512];
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", servers.c_str(), error, sizeof error);
    for (const auto& [name, value] : settings) {
      if (rd_kafka_conf_set(conf, name, value, error, sizeof error) != RD_KAFKA_CONF_OK) Die(error);
    }
    handle_ = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
    reports_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) rd_kafka_poll(handle_, 10);
    });
  }
  ~Producer() {
    reports_.request_stop();
    reports_.join();
    rd_kafka_flush(handle_, 10'000);
    rd_kafka_destroy(handle_);
  }
  void Send(const std::string& topic, std::string_view type, uint64_t i, const std::string& data) {
    const std::string id = "bench#" + std::to_string(i);
    rd_kafka_producev(
        handle_, RD_KAFKA_V_TOPIC(topic.c_str()), RD_KAFKA_V_PARTITION(0),
        RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
        RD_KAFKA_V_VALUE(const_cast<char*>(data.data()), data.size()),
        RD_KAFKA_V_KEY(kChain.data(), kChain.size()), RD_KAFKA_V_HEADER("ce_specversion", "1.0", 3),
        RD_KAFKA_V_HEADER("ce_type", type.data(), static_cast<ssize_t>(type.size())),
        RD_KAFKA_V_HEADER("ce_id", id.data(), static_cast<ssize_t>(id.size())),
        RD_KAFKA_V_HEADER("ce_source", "bench", 5),
        RD_KAFKA_V_HEADER("ce_time", "2017-07-14T02:40:00Z", 20),
        RD_KAFKA_V_HEADER("content-type", "application/protobuf", 20), RD_KAFKA_V_END);
  }

 private:
  rd_kafka_t* handle_;
  std::jthread reports_;
};

// Sends at the rate, from event `first` on, and calls `seen` in between, on another thread: it waits a
// moment at most and gives the number of the first event that cannot be seen yet.
void Measure(uint64_t first, uint64_t count, const std::function<void(uint64_t)>& send,
             const std::function<uint64_t(uint64_t)>& seen, Latencies* out) {
  const auto begun = Clock::now() + std::chrono::milliseconds(100);
  std::jthread sender([&] {
    for (uint64_t i = 0; i < count; ++i) {
      std::this_thread::sleep_until(DueAt(begun, i));
      send(first + i);
    }
  });
  for (uint64_t next = first; next < first + count;) {
    const uint64_t now = seen(next);
    for (; next < now; ++next) out->all.push_back(Since(DueAt(begun, next - first)));
    if (Clock::now() > DueAt(begun, count) + kPatience) Die("events do not come");
  }
}

// From `next` on, as far as the newest view has their accounts.
uint64_t Visible(const leat::balances::Service& balances, uint64_t next) {
  const auto view = balances.view();
  std::string row;
  while (Must(view->Get(RowOf(next), &row))) ++next;
  if (!balances.error()) Must(balances.error());
  if (!balances.WaitApplied(view->input.next + 1, std::chrono::milliseconds(100))) return next;
  const auto newer = balances.view();
  while (Must(newer->Get(RowOf(next), &row))) ++next;
  return next;
}

void Print(const char* what, const Latencies& latencies) {
  std::printf("%-11s p50 %6.2f ms  p90 %6.2f ms  p99 %6.2f ms  max %6.2f ms  (%zu events)\n", what,
              latencies.At(0.5) / 1e3, latencies.At(0.9) / 1e3, latencies.At(0.99) / 1e3,
              latencies.At(1) / 1e3, latencies.all.size());
}

void Kafka(const std::string& servers, const std::string& folder, uint64_t count, int rounds,
           leat::bench::Targets* targets) {
  leat::bus::KafkaOptions options;
  options.properties["bootstrap.servers"] = servers;
  options.topic_prefix = "bench" + std::to_string(Clock::now().time_since_epoch().count()) + ".";
  const auto transport = Must(leat::bus::KafkaTransport::Open(options));
  for (const char* topic : {"bare", "postings", "chain.blocks"}) {
    Must(transport->CreateTopic(topic, 1));
  }
  const auto named = [&](const char* topic) { return options.topic_prefix + topic; };
  Producer producer(servers);

  char error[512];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", servers.c_str(), error, sizeof error);
  rd_kafka_conf_set(conf, "fetch.wait.max.ms", "50", error, sizeof error);
  rd_kafka_t* consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof error);
  rd_kafka_topic_t* handle = rd_kafka_topic_new(consumer, named("bare").c_str(), nullptr);
  if (rd_kafka_consume_start(handle, 0, 0) != 0) Die("consume_start");
  const auto consume = [&](uint64_t next) {
    rd_kafka_message_t* message = rd_kafka_consume(handle, 0, 100);
    if (message == nullptr) return next;
    const bool event = message->err == RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_message_destroy(message);
    return event ? next + 1 : next;
  };

  const std::string entries(leat::ledger::kLedgerEntriesTopic);
  Must(transport->CreateTopic(entries, 1, {.owner = "ledger"}));
  const auto projection = Must(
      leat::balances::Service::Open({folder + "/projection", "postings"}, transport.get()));
  Must(projection->Own({}));
  leat::ledger::ServiceOptions ledger_options;
  ledger_options.path = folder + "/ledger";
  ledger_options.input_topic = "chain.blocks";
  ledger_options.relayed = true;
  const auto ledger = Must(leat::ledger::Service::Open(ledger_options, transport.get()));
  const auto balances =
      Must(leat::balances::Service::Open({folder + "/balances", entries}, transport.get()));
  Must(ledger->Own({}));
  Must(balances->Own({}));

  Latencies bare, one_hop, two_hops;
  const auto round = [&](uint64_t first, uint64_t events, Latencies* a, Latencies* b,
                         Latencies* c) {
    Measure(first, events,
            [&](uint64_t i) {
              producer.Send(named("bare"), leat::events::kEntriesPosted, i, PostingOf(i));
            },
            consume, a);
    Measure(first, events,
            [&](uint64_t i) {
              producer.Send(named("postings"), leat::events::kEntriesPosted, i, PostingOf(i));
            },
            [&](uint64_t next) { return Visible(*projection, next); }, b);
    Measure(first, events,
            [&](uint64_t i) {
              producer.Send(named("chain.blocks"), leat::events::kBlockObserved, i, BlockOf(i));
            },
            [&](uint64_t next) { return Visible(*balances, next); }, c);
  };
  // Whatever is done once, such as an idempotent producer's first request, is not measured.
  Latencies ignored;
  round(0, kEventsPerSecond, &ignored, &ignored, &ignored);
  std::vector<double> ratios, ratios_two;
  for (int i = 0; i < rounds; ++i) {
    Latencies a, b, c;
    round(kEventsPerSecond + static_cast<uint64_t>(i) * count, count, &a, &b, &c);
    std::printf("round %d, p99: bare %.2f ms, projection %.2f ms, two hops %.2f ms\n", i + 1,
                a.At(0.99) / 1e3, b.At(0.99) / 1e3, c.At(0.99) / 1e3);
    std::fflush(stdout);
    ratios.push_back(b.At(0.99) / a.At(0.99));
    ratios_two.push_back(c.At(0.99) / a.At(0.99));
    bare.Add(a);
    one_hop.Add(b);
    two_hops.Add(c);
  }
  Print("bare", bare);
  Print("projection", one_hop);
  Print("two hops", two_hops);
  std::printf("p99 of all rounds, of bare: projection %.2f times, two hops %.2f times\n",
              one_hop.At(0.99) / bare.At(0.99), two_hops.At(0.99) / bare.At(0.99));
  targets->AtMost("p99 of the projection, of bare, median of the rounds", Median(ratios), 2);
  targets->AtMost("p99 of two hops, of bare, median of the rounds", Median(ratios_two), 4);
  rd_kafka_consume_stop(handle, 0);
  rd_kafka_topic_destroy(handle);
  rd_kafka_destroy(consumer);
}

void Embedded(const std::string& folder, uint64_t count, int rounds,
              leat::bench::Targets* targets) {
  const auto transport = Must(leat::bus::EmbeddedTransport::Open(folder + "/bus"));
  Must(transport->CreateTopic("postings", 1));
  const auto balances = Must(
      leat::balances::Service::Open({folder + "/embedded", "postings"}, transport.get()));
  Must(balances->Own({}));
  const int file = open((folder + "/fdatasync").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (file < 0) Die("no file can be made in " + folder);
  const std::string page(4096, 'x');
  Latencies synced, embedded;
  std::vector<double> p99;  // of each round
  for (int round = 0; round < rounds; ++round) {
    Latencies synced_now, embedded_now;
    const auto begun = Clock::now();
    for (uint64_t i = 0; i < count; ++i) {
      std::this_thread::sleep_until(DueAt(begun, i));
      const auto from = Clock::now();
      if (write(file, page.data(), page.size()) < 0 || fdatasync(file) != 0) Die("fdatasync");
      synced_now.all.push_back(Since(from));
    }
    // Each waits for its own events, so several of them keep the rate.
    const auto start = Clock::now() + std::chrono::milliseconds(100);
    std::vector<Latencies> each(kEmbeddedPublishers);
    {
      std::vector<std::jthread> publishers;
      for (int n = 0; n < kEmbeddedPublishers; ++n) {
        publishers.emplace_back([&, n] {
          for (uint64_t i = static_cast<uint64_t>(n); i < count; i += kEmbeddedPublishers) {
            const uint64_t number = static_cast<uint64_t>(round) * count + i;
            const std::string id = "bench#" + std::to_string(number);
            const std::string data = PostingOf(number);
            leat::events::EventView view;
            view.type = leat::events::kEntriesPosted;
            view.id = id;
            view.source = "bench";
            view.partitionkey = kChain;
            view.time_us = 1'500'000'000'000'000;
            view.data = data;
            std::this_thread::sleep_until(DueAt(start, i));
            const auto at = Must(transport->Publish("postings", {leat::events::Event(view)}));
            if (!balances->WaitApplied(at.front().offset + 1, kPatience)) Die("it does not come");
            std::string row;
            if (!Must(balances->view()->Get(RowOf(number), &row))) Die("it is not there");
            each[static_cast<size_t>(n)].all.push_back(Since(DueAt(start, i)));
          }
        });
      }
    }
    for (const auto& part : each) embedded_now.Add(part);
    std::printf("round %d, p99: fdatasync %.2f ms, embedded %.2f ms\n", round + 1,
                synced_now.At(0.99) / 1e3, embedded_now.At(0.99) / 1e3);
    std::fflush(stdout);
    p99.push_back(embedded_now.At(0.99));
    synced.Add(synced_now);
    embedded.Add(embedded_now);
  }
  close(file);
  Print("fdatasync", synced);
  Print("embedded", embedded);
  targets->AtMost("p99 of embedded, median of the rounds, ms", Median(p99) / 1e3, 3);
}

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  if (argc < 2) {
    std::fprintf(stderr, "usage: see the top of bench/transports/latency.cc\n");
    return 2;
  }
  const std::string folder = argv[1];
  const std::string servers = argc > 2 ? argv[2] : "127.0.0.1:19092";
  const uint64_t count =
      (argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 5) * kEventsPerSecond;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 5;
  leat::bench::Targets targets;
  Embedded(folder, count, rounds, &targets);
  Kafka(servers, folder, count, rounds, &targets);
  return targets.exit_code();
}
