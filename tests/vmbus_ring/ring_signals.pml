/* SPDX-License-Identifier: Apache-2.0
 *
 * The ring's signal protocol, for spin: every interleaving of one writer and one reader whose stores wait in a store buffer, as
 * on x86 (total store order). An end that sleeps although it should not is a deadlock, which spin reports as an invalid end
 * state.
 *
 * Follows include/hvsdk/vmbus/ring/{writer,reader}.h step by step: each load is one step, each store goes into the buffer
 * of its processor and reaches memory later, and Publish is a store that waits until the buffer is empty. Indices count
 * packets and never wrap, because a round has few of them.
 *
 * Take a fence away with -DNO_FENCE_WRITE, -DNO_FENCE_MASK, -DNO_FENCE_READ or -DNO_FENCE_WAIT and the check must fail.
 */

#ifndef PACKETS
#define PACKETS 4
#endif
#define ROOM 2 /* packets that fit */

#define WRITE_INDEX 0
#define READ_INDEX 1
#define MASK 2
#define PENDING 3
byte memory[4];

chan writer_stores = [3] of { byte, byte };
chan reader_stores = [3] of { byte, byte };

bool reader_signal, writer_signal; /* an event flag each: set by the other end, cleared by who sleeps on it */

/* The store buffers drain in order, at any time. */
active proctype WriterMemory() {
  byte at, value;
end:
  do
  :: atomic { writer_stores?at, value -> memory[at] = value }
  od
}
active proctype ReaderMemory() {
  byte at, value;
end:
  do
  :: atomic { reader_stores?at, value -> memory[at] = value }
  od
}

#define STORE(buffer, at, value) buffer!at, value
#define PUBLISH(buffer, at, value) buffer!at, value; empty(buffer)

#ifdef NO_FENCE_WRITE
#define PUBLISH_WRITE_INDEX(value) STORE(writer_stores, WRITE_INDEX, value)
#else
#define PUBLISH_WRITE_INDEX(value) PUBLISH(writer_stores, WRITE_INDEX, value)
#endif
#ifdef NO_FENCE_WAIT
#define PUBLISH_PENDING(value) STORE(writer_stores, PENDING, value)
#else
#define PUBLISH_PENDING(value) PUBLISH(writer_stores, PENDING, value)
#endif
#ifdef NO_FENCE_READ
#define PUBLISH_READ_INDEX(value) STORE(reader_stores, READ_INDEX, value)
#else
#define PUBLISH_READ_INDEX(value) PUBLISH(reader_stores, READ_INDEX, value)
#endif
#ifdef NO_FENCE_MASK
#define PUBLISH_MASK(value) STORE(reader_stores, MASK, value)
#else
#define PUBLISH_MASK(value) PUBLISH(reader_stores, MASK, value)
#endif

active proctype Writer() {
  byte write = 0, published = 0, read = 0, mask = 0, before = 0;
  byte size; /* of the next packet, in units of room */
  byte wanted;
  bool waiting = false;
  bool again;

  do
  :: write < PACKETS ->
    /* A packet takes one unit, or two if the ring has them: a writer that waits may want more than one unit free. */
    if
    :: size = 1
    :: (write + 2 <= PACKETS) -> size = 2
    fi;
    again = true;
    do
    :: again && ROOM - (write - read) >= size -> again = false; write = write + size
    :: again && ROOM - (write - read) < size ->
      read = memory[READ_INDEX]; /* Claim looks again */
      if
      :: ROOM - (write - read) >= size -> skip
      :: else ->
        /* Publish whatever is staged, then wait. */
        if
        :: write != published ->
          before = published;
          if :: waiting -> waiting = false; STORE(writer_stores, PENDING, 0) :: else fi;
          published = write;
          PUBLISH_WRITE_INDEX(write);
          mask = memory[MASK];
          if
          :: mask == 0 -> read = memory[READ_INDEX]; if :: read == before -> reader_signal = true :: else fi
          :: else
          fi
        :: else
        fi;
        /* WaitForRoom */
        waiting = true;
        wanted = size;
        PUBLISH_PENDING(wanted);
        read = memory[READ_INDEX];
        if
        :: ROOM - (write - read) >= size -> waiting = false; STORE(writer_stores, PENDING, 0)
        :: else -> writer_signal -> writer_signal = false /* sleeps */
        fi
      fi
    :: !again -> break
    od;
    /* Publish, or leave it staged, if the peer is busy (PublishLazily). */
    read = memory[READ_INDEX];
    if
    :: true -> again = true
    :: read != published -> again = false
    fi;
    if
    :: again ->
      before = published;
      if :: waiting -> waiting = false; STORE(writer_stores, PENDING, 0) :: else fi;
      published = write;
      PUBLISH_WRITE_INDEX(write);
      mask = memory[MASK];
      if
      :: mask == 0 -> read = memory[READ_INDEX]; if :: read == before -> reader_signal = true :: else fi
      :: else
      fi
    :: else
    fi
  :: else -> break
  od;
  /* The end of the stream. */
  if
  :: write != published ->
    before = published;
    if :: waiting -> waiting = false; STORE(writer_stores, PENDING, 0) :: else fi;
    published = write;
    PUBLISH_WRITE_INDEX(write);
    mask = memory[MASK];
    if
    :: mask == 0 -> read = memory[READ_INDEX]; if :: read == before -> reader_signal = true :: else fi
    :: else
    fi
  :: else
  fi
}

active proctype Reader() {
  byte read = 0, committed = 0, write = 0, seen = 0, pending = 0, before = 0;

#define SIGNAL_FOR_ROOM                                                                                       \
  before = committed;                                                                                         \
  committed = read;                                                                                           \
  pending = memory[PENDING];                                                                                  \
  if                                                                                                          \
  :: pending != 0 ->                                                                                          \
    write = memory[WRITE_INDEX];                                                                              \
    if                                                                                                        \
    :: ROOM - (write - before) < pending && ROOM - (write - read) >= pending -> writer_signal = true          \
    :: else                                                                                                   \
    fi                                                                                                        \
  :: else                                                                                                     \
  fi

  do
  :: read < PACKETS ->
    if
    :: seen == read -> seen = memory[WRITE_INDEX]
    :: else
    fi;
    if
    :: seen != read ->
      read = read + 1; /* a unit at a time; a long packet is released in steps, which only adds commits */
      if
      :: true -> PUBLISH_READ_INDEX(read); SIGNAL_FOR_ROOM /* commits each */
      :: true -> skip                                      /* or later */
      fi
    :: else ->
      /* Arm */
      STORE(reader_stores, READ_INDEX, read);
      PUBLISH_MASK(0);
      SIGNAL_FOR_ROOM;
      seen = memory[WRITE_INDEX];
      if
      :: seen == read ->
        reader_signal -> reader_signal = false; /* sleeps */
        STORE(reader_stores, MASK, 1)
      :: else -> STORE(reader_stores, MASK, 1)
      fi
    fi
  :: else -> break
  od
}
