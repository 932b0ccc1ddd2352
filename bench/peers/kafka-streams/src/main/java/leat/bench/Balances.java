package leat.bench;

import com.google.protobuf.CodedInputStream;
import java.io.IOException;
import java.io.PrintWriter;
import java.math.BigInteger;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;

/**
 * A balance per account as Kafka Streams keeps it: groupByKey().aggregate() over ledger.entries_posted.v1 events into its
 * RocksDB store, whose changes go to a changelog topic.
 *
 * <p>usage: Balances BOOTSTRAP TOPIC EVENTS exactly_once_v2|at_least_once THREADS STATE_FOLDER OUT [APPLICATION SESSION_MS]
 *
 * <p>Prints when it had the first record, in milliseconds since 1970, and the seconds from there to the last one; what is
 * committed after that is not counted. Then writes to OUT "account balance" for every account, as its store answers.
 * Everything is the library's default but what is set below. With APPLICATION, its name, it can be started again where it
 * was killed; SESSION_MS is the session timeout of its consumers, 0: the default.
 */
public final class Balances {
  private static final int LEGS = 4;      // fields of ledger.v1.EntriesPosted
  private static final int NEGATIVE = 4;  // and of ledger.v1.Leg
  private static final int MAGNITUDE = 5;

  private static final AtomicLong applied = new AtomicLong();
  private static volatile long firstAt;
  private static volatile long lastAt;

  public static void main(String[] args) throws Exception {
    final String topic = args[1];
    final long events = Long.parseLong(args[2]);
    final CountDownLatch done = new CountDownLatch(1);

    final Properties settings = new Properties();
    settings.put(
        StreamsConfig.APPLICATION_ID_CONFIG, args.length > 7 ? args[7] : "bench-" + args[3] + "-" + System.nanoTime());
    if (args.length > 8 && !args[8].equals("0")) {
      settings.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, args[8]);
    }
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[3]);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Integer.parseInt(args[4]));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, args[5]);
    // Room for every account: a third faster than with its 10 MiB.
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

    final StreamsBuilder builder = new StreamsBuilder();
    builder.stream(topic, Consumed.with(Serdes.Bytes(), Serdes.ByteArray()))
        .groupByKey()
        .aggregate(
            () -> new byte[] {0},
            (account, event, balance) -> {
              final byte[] sum = new BigInteger(balance).add(amount(event)).toByteArray();
              count(events, done);
              return sum;
            },
            Materialized.<Bytes, byte[], KeyValueStore<Bytes, byte[]>>as("balances")
                .withKeySerde(Serdes.Bytes())
                .withValueSerde(Serdes.ByteArray()));
    final KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
          return null;
        });
    streams.start();
    if (!done.await(10, TimeUnit.MINUTES)) {
      throw new IllegalStateException("after ten minutes " + applied + " of " + events + " are applied");
    }
    System.out.printf("seconds %.3f%n", (lastAt - firstAt) / 1e9);
    write(streams, Path.of(args[6]));
    streams.close(Duration.ofSeconds(60));
  }

  private static void count(final long events, final CountDownLatch done) {
    final long number = applied.incrementAndGet();
    if (number == 1) {
      firstAt = System.nanoTime();
      System.out.println("first " + System.currentTimeMillis());
      System.out.flush();
    }
    if (number == events) {
      lastAt = System.nanoTime();
      done.countDown();
    }
  }

  /** The sum of a posting's legs; here each posting has one. */
  private static BigInteger amount(final byte[] event) {
    try {
      BigInteger sum = BigInteger.ZERO;
      final CodedInputStream in = CodedInputStream.newInstance(event);
      for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
        if (tag >>> 3 != LEGS) {
          in.skipField(tag);
          continue;
        }
        final int outer = in.pushLimit(in.readRawVarint32());
        int sign = 1;
        byte[] magnitude = {};
        for (int field = in.readTag(); field != 0; field = in.readTag()) {
          if (field >>> 3 == NEGATIVE) {
            sign = in.readBool() ? -1 : 1;
          } else if (field >>> 3 == MAGNITUDE) {
            magnitude = in.readByteArray();
          } else {
            in.skipField(field);
          }
        }
        in.popLimit(outer);
        final BigInteger absolute = new BigInteger(1, magnitude);
        sum = sum.add(sign < 0 ? absolute.negate() : absolute);
      }
      return sum;
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  private static void write(final KafkaStreams streams, final Path out) throws IOException {
    final var store =
        streams.store(StoreQueryParameters.fromNameAndType("balances", QueryableStoreTypes.<Bytes, byte[]>keyValueStore()));
    try (var rows = store.all();
        var text = new PrintWriter(out.toFile())) {
      rows.forEachRemaining(row -> text.println(new String(row.key.get()) + " " + new BigInteger(row.value)));
    }
  }
}
