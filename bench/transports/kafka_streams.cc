// The job that bench/transports/kafka_streams.py gives Kafka Streams, too: balances per account from
// a topic of 4 partitions keyed by account.
//
// usage: bench_kafka_streams load BOOTSTRAP TOPIC EVENTS [ACCOUNTS=94000] [SEED=1]
//        bench_kafka_streams run BOOTSTRAP TOPIC EVENTS FOLDER OUT
//
// `load` makes the topic: ledger.entries_posted.v1 events with one leg each, in the CloudEvents binary
// binding. A posting has two legs at least, of two accounts; here each leg is a message of its own
// under the key of its account, because that is how the peer's users would key it (Zipf with exponent 1
// over the accounts, random amounts and signs). `run` is the product: a ProjectionRunner with the
// balances projection on each partition, each with its own shard in FOLDER. Beside the balance it keeps
// every entry with the balance after it, which the peer does not. It prints the seconds from
// before the first fetch to the last commit, its CPU time and how many commits it made, and writes "account balance" lines to OUT, as the rows say.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bus/kafka/kafka_transport.h"
#include "consumers/balances/balances.h"
#include "core/hash.h"
#include "core/log.h"
#include "events/registry.h"
#include "runtime/projection_runner.h"
#include "runtime/shard.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr uint32_t kPartitions = 4;
constexpr size_t kPublishEvents = 5000;
constexpr std::string_view kChain = "eip155:1";
constexpr uint64_t kTransfersPerBlock = 200;

template <typename T>
T Must(leat::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().Text().c_str());
  std::exit(1);
}
void Must(const leat::Status& status) {
  if (status) return;
  std::fprintf(stderr, "%s\n", status.error().Text().c_str());
  std::exit(1);
}

std::unique_ptr<leat::bus::KafkaTransport> Connect(const std::string& servers) {
  leat::bus::KafkaOptions options;
  options.properties["bootstrap.servers"] = servers;
  return Must(leat::bus::KafkaTransport::Open(options));
}

void Load(const std::string& servers, const std::string& topic, uint64_t count, uint64_t accounts,
          uint64_t seed) {
  const auto transport = Connect(servers);
  Must(transport->CreateTopic(topic, kPartitions));
  std::mt19937_64 random(seed);
  std::vector<double> cumulative(accounts);
  double sum = 0;
  for (uint64_t rank = 1; rank <= accounts; ++rank) {
    cumulative[rank - 1] = sum += 1.0 / static_cast<double>(rank);
  }
  std::vector<std::string> addresses;
  for (uint64_t i = 0; i < accounts; ++i) {
    const std::string name = std::to_string(seed) + "|" + std::to_string(i);
    addresses.emplace_back(leat::core::Sha256(name).View().substr(0, leat::Address::kSize));
  }
  leat::ledger::v1::EntriesPosted posting;
  posting.set_chain(std::string(kChain));
  auto* leg = posting.add_legs();
  std::string data;
  std::vector<leat::events::Event> batch;
  for (uint64_t i = 0; i < count; ++i) {
    const double at = static_cast<double>(random() >> 11) * 0x1p-53 * sum;
    const auto found = std::lower_bound(cumulative.begin(), cumulative.end(), at);
    const std::string& address = addresses[std::min<size_t>(
        static_cast<size_t>(found - cumulative.begin()), accounts - 1)];
    const uint64_t noise = random();
    posting.set_block_number(i / kTransfersPerBlock);
    leg->set_address(address);
    leg->set_negative(noise % 2 == 1);
    leg->set_magnitude(leat::Amount(noise >> 11).Magnitude());
    posting.SerializeToString(&data);
    const std::string id = "bench#" + std::to_string(i);
    const std::string key = "0x" + leat::core::ToHex(address);
    leat::events::EventView view;
    view.type = leat::events::kEntriesPosted;
    view.id = id;
    view.source = "bench";
    view.time_us = 1'500'000'000'000'000 + static_cast<int64_t>(i);
    view.partitionkey = key;
    view.data = data;
    batch.emplace_back(view);
    if (batch.size() < kPublishEvents && i + 1 < count) continue;
    Must(transport->Publish(topic, batch));
    batch.clear();
  }
}

struct Part {
  leat::balances::Balances projection;
  std::unique_ptr<leat::runtime::Shard> shard;
  std::unique_ptr<leat::runtime::ProjectionRunner> runner;
  uint64_t end = 0;
};

void Run(const std::string& servers, const std::string& topic, uint64_t count,
         const std::string& folder, const std::string& out) {
  const auto transport = Connect(servers);
  std::array<Part, kPartitions> parts;
  uint64_t there = 0;
  for (uint32_t i = 0; i < kPartitions; ++i) {
    Part& part = parts[i];
    leat::runtime::ShardOptions options;
    options.name = "balances-" + std::to_string(i);
    options.path = folder + "/" + options.name;
    part.shard = Must(leat::runtime::Shard::Open(options));
    leat::runtime::RunnerOptions input;
    input.topic = topic;
    input.partition = i;
    input.commit_bytes = 16u << 20;  // as balances::Service has it
    part.runner = std::make_unique<leat::runtime::ProjectionRunner>(
        part.shard.get(), &part.projection, transport.get(), input);
    part.end = Must(transport->End(topic, i)).offset;
    there += part.end;
  }
  if (there != count) {
    std::fprintf(stderr, "the topic has %llu events\n", static_cast<unsigned long long>(there));
    std::exit(1);
  }
  // From before the first fetch: what the consumer needs to begin counts.
  const auto begun = Clock::now();
  for (Part& part : parts) Must(part.runner->Start());
  for (Part& part : parts) {
    if (!part.runner->status().WaitApplied(part.end, std::chrono::minutes(10))) {
      Must(part.runner->status().error());
      std::exit(1);
    }
  }
  const double took = std::chrono::duration<double>(Clock::now() - begun).count();
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto cpu = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  uint64_t commits = 0;
  for (const Part& part : parts) commits += part.runner->generation() - 1;
  std::printf("seconds %.3f cpu %.2f commits %llu\n", took, cpu(used.ru_utime) + cpu(used.ru_stime),
              static_cast<unsigned long long>(commits));
  std::ofstream text(out);
  for (Part& part : parts) {
    part.runner->Stop();
    const auto view = part.runner->view();
    const auto* summary =
        static_cast<const leat::balances::Summary*>(view->summary.get());
    const uint32_t chain = summary->chains.find(kChain)->second.row.number;
    const std::string prefix = leat::balances::AccountPrefix(chain);
    const auto rows = view->Iterate({}, true);
    for (rows->Seek(prefix); rows->Valid() && rows->key().starts_with(prefix); rows->Next()) {
      leat::balances::AccountRow row;
      Must(leat::balances::Unpack(rows->value(), &row));
      // Behind the class of the account: its address.
      text << "0x" << leat::core::ToHex(rows->key().substr(prefix.size() + 1)) << ' '
           << row.balance.ToDecimal() << '\n';
    }
    Must(rows->status());
  }
}

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  const std::string what = argc > 1 ? argv[1] : "";
  const auto number = [&](int i, uint64_t otherwise) {
    return argc > i ? std::strtoull(argv[i], nullptr, 10) : otherwise;
  };
  if (what == "load" && argc >= 5) {
    Load(argv[2], argv[3], number(4, 0), number(5, 94'000), number(6, 1));
  } else if (what == "run" && argc == 7) {
    Run(argv[2], argv[3], number(4, 0), argv[5], argv[6]);
  } else {
    std::fprintf(stderr, "usage: see the top of bench/transports/kafka_streams.cc\n");
    return 2;
  }
  return 0;
}
