/**
 * Hear the changes that a host's pgherald relay hears from PostgreSQL, and publish some. It promises
 * what libpgherald does, in the words of Node.
 *
 * Open a client, say how the app is told of events, and subscribe:
 *
 *     import { open } from "pgherald";
 *
 *     const client = open();
 *     client.on("change", ({ pubkey }) => console.log(pubkey, "changed"));
 *     client.on("gap", () => readEverythingAgain());
 *     await client.subscribe("data_sync_changes");
 *
 * or iterate, at the app's own pace:
 *
 *     for await (const event of client) if (event.type === "change") await handle(event.pubkey);
 *
 * What holds for all of it:
 *
 * - The client connects, reconnects and resumes by itself. It prints nothing and handles no signal.
 *   It keeps the process running until it is closed.
 * - Delivery is at least once: every change committed while a subscription is live is told, or a gap
 *   tells that it may not have been. A change may come twice after a reconnect.
 * - Changes, messages and gaps wait until the app listens to one of these events or iterates. It does
 *   either, not both. States are not kept: they are told to whoever listens, or iterates, by then.
 * - Events come in the order in which the relay sent them. A promise is settled in that order too:
 *   what awaits it runs before the next event. An app that iterates may await a promise in its loop.
 * - The cursor is the place up to which listeners have returned, or up to the event before the one
 *   that the loop handles. An app whose listener goes on after its return must store the cursor
 *   later, too.
 * - A process that node:cluster or child_process starts opens a client of its own.
 * - A call that fails throws, or rejects with, a PgheraldError, whose code is an errno that
 *   pgherald.h names.
 */
import { EventEmitter } from "node:events";

/** A number up to 2^53, beyond that a bigint. A place in the relay's order; 0 if it has none. */
export type Seq = number | bigint;

/** A notification of a change channel: the data of one user changed. */
export interface Change {
  channel: string;
  /** Whose data changed. */
  pubkey: string;
  /** Who made the change, so that an app can recognise its own echo. null if the publisher gave none. */
  clientId: string | null;
  /** 0 if recovered for this client alone. */
  seq: Seq;
  /** The relay found the change in the database and did not hear it live. clientId is then null. */
  recovered: boolean;
}

/** A notification of a text channel, as it was published. */
export interface Message {
  channel: string;
  payload: string;
  /** The payload's bytes: the same in UTF-8, unless the database has an encoding that does not guarantee it (SQL_ASCII). */
  bytes: Uint8Array;
  seq: Seq;
  /** The recovery function returned it. */
  recovered: boolean;
}

/** Changes may have been lost before this moment. The app reads again what it needs, as it does at start. */
export interface Gap {
  /**
   * - "overrun": this process read more slowly than the relay could keep what it missed.
   * - "restart": the cursor is from a relay run that is gone, and the database could not tell what
   *   was missed.
   * - "upstream": the relay had lost PostgreSQL, and could not recover what was missed.
   * - "recovery": the database gave a wrong answer when the relay asked what was missed.
   * - "refused": a subscription was refused, or is live again after that (see subscribe()).
   *
   * Later versions may add causes.
   */
  cause: "overrun" | "restart" | "upstream" | "recovery" | "refused" | (string & {});
  /** For people. */
  text: string;
  seq: Seq;
}

/**
 * Each connection that is made or lost, and a first one that fails. Repeated failures are reported
 * only when the reason changes. After each connect it also reports the state of the upstream, and
 * then each change of that state.
 */
export interface State {
  /**
   * - "connected": text is the mode, "postgres", "local", or "in-process" for the local notifier.
   * - "disconnected": text says why. The client connects again by itself.
   * - "upstream-live": the relay hears PostgreSQL.
   * - "upstream-down": the relay does not hear PostgreSQL. Changes come late, and notify() may time
   *   out.
   */
  state: "connected" | "disconnected" | "upstream-live" | "upstream-down";
  /** For people. */
  text: string;
}

/** What iterating over a client gives. */
export type Event =
  | ({ type: "change" } & Change)
  | ({ type: "message" } & Message)
  | ({ type: "gap" } & Gap)
  | ({ type: "state" } & State);

export interface Events {
  change: [Change];
  message: [Message];
  gap: [Gap];
  state: [State];
}

export interface Options {
  /**
   * Path of the relay's socket. Default: the environment variable PGHERALD_SOCKET, or
   * /run/pgherald/relay.sock if that is unset. An empty string, here or in the variable, selects the
   * local notifier. It needs no relay: it delivers what this client publishes, on any channel, to
   * this client alone. Use it in a single process, and in tests.
   */
  socket?: string | null;
  /** The name of this connection on the operator's screen. Default: the program's name. */
  name?: string | null;
  /**
   * Where to resume: the text that cursor() returned for an earlier client, perhaps in an earlier
   * process. Default: start from now. The client receives what was missed since for the
   * subscriptions made in the same turn of the event loop as open(). A later subscription starts
   * when it becomes live. The local notifier ignores the cursor.
   */
  cursor?: string | null;
  /**
   * Most bytes of requests to publish that may wait for their outcome. A request counts as its
   * strings and about 100 bytes more. Default: 1 MiB. Least: 64 KiB.
   */
  queueSize?: number;
  /**
   * Milliseconds after which a request to publish fails with ETIMEDOUT, time without a connection
   * included. Default: 10000.
   */
  deadlineMs?: number;
  /** Closes the client when it is aborted. */
  signal?: AbortSignal;
}

export interface RequestOptions {
  /**
   * Ends the request when it is aborted: the promise rejects with the signal's reason. A
   * subscription is undone; what was to be published may still be published.
   */
  signal?: AbortSignal;
}

export class Client extends EventEmitter implements AsyncIterable<Event> {
  /**
   * Connects in the next turn of the event loop. The relay need not run yet.
   *
   * Throws EINVAL (queueSize or deadlineMs is too small, name has more than 255 bytes, or an option
   * has the wrong type), E2BIG (there is no such option), ENAMETOOLONG (the socket path is longer
   * than a socket address can hold), EILSEQ or EBADMSG (the cursor is malformed).
   */
  constructor(options?: Options);

  /**
   * Subscribe to the changes of pubkey on channel, or to the whole channel if pubkey is null or not
   * given. A text channel is only subscribed to as a whole. Subscriptions are counted: each call
   * needs one unsubscribe() of the same, and the relay knows only whether there are any. They stay
   * across reconnects. A subscription to all and subscriptions by pubkey are independent.
   *
   * Resolves when the subscription is live: from that seq on, nothing is missed. That is the moment
   * without a race to read the present state from the database. It has no deadline: without a relay
   * it waits. Rejects with
   *
   * - ENXIO: the relay does not serve this channel, or pubkey was given for a text channel
   * - EACCES: the relay's operator does not allow it on this channel
   * - EDQUOT: the relay's limit of subscriptions is reached; subscriptions that were asked for at the
   *   same time fail together
   * - EPROTO, or another that the relay's code names: the relay refused it for another reason
   * - ECANCELED: it was unsubscribed before it was live, or the client was closed
   * - EINVAL: channel is empty or has more than 63 bytes; EMSGSIZE: pubkey has more than 7999 bytes;
   *   EILSEQ: a string has a lone surrogate or a NUL; ESHUTDOWN: the client was closed before
   *
   * A subscription that the relay refused stays until it is unsubscribed. The client asks for it
   * again on each new connection, and at each further subscribe() of it. A gap with cause "refused"
   * comes when it becomes live after all, and when a subscription is refused whose promises were
   * settled on an earlier connection.
   */
  subscribe(channel: string, pubkey?: string | null, options?: RequestOptions): Promise<Seq>;

  /**
   * Undo one subscribe() of the same. After the last one, promises that still wait reject with
   * ECANCELED. Changes that were already on their way may still be told. Throws ENOENT (there is no
   * such subscription), and what subscribe() rejects with at once.
   */
  unsubscribe(channel: string, pubkey?: string | null): void;

  /**
   * Publish that the data of pubkey changed. Call it after the change is committed. All subscribed
   * workers of all hosts hear it, this one included.
   *
   * Resolves when PostgreSQL has committed the notification, with its place in the relay's order.
   * Rejects with
   *
   * - ENXIO: the relay does not serve this channel, or it is a text channel
   * - EACCES: the relay's operator does not allow it on this channel
   * - EMSGSIZE: a string has more than 7999 bytes, or the payload would have 8000 bytes or more,
   *   which PostgreSQL refuses
   * - EBUSY: the relay's queue is full; not published
   * - EREMOTEIO: PostgreSQL refused it; not published; the message says why
   * - EILSEQ, EPROTO: the relay refused it; not published
   * - ETIMEDOUT: not known to be committed in time; it may still be published
   * - ECANCELED: the client was closed; it may still be published
   * - ENOBUFS: queueSize bytes wait already: await what was published before
   * - EINVAL, EILSEQ, ESHUTDOWN as in subscribe()
   *
   * Without a connection the request waits for one, until its deadline. If the connection breaks
   * before the answer, the client sends the request again, so it may be heard twice.
   */
  notify(channel: string, pubkey: string, clientId?: string | null, options?: RequestOptions): Promise<Seq>;

  /** Publish payload on a text channel. Everything else is as in notify(): ENXIO means that the channel is a change channel. */
  send(channel: string, payload: string, options?: RequestOptions): Promise<Seq>;

  /**
   * The place up to which the app was told everything and has handled it, as one line of printable
   * ASCII. A later client resumes from it (options.cursor). null: there is none yet, before the first
   * connection; the local notifier never has one. It may be called after close().
   */
  cursor(): string | null;

  /**
   * Close the connection. Promises that wait reject with ECANCELED. A request that was already sent
   * may still be published. Nothing is told any more, and an iteration ends.
   */
  close(): void;

  /** Whether it was closed. */
  readonly closed: boolean;

  /**
   * The events, at the app's own pace: the client stops reading when too many wait. Leaving the loop
   * does not close the client: a further loop goes on with the next event.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Event>;

  on<E extends keyof Events>(name: E, listener: (...event: Events[E]) => void): this;
  once<E extends keyof Events>(name: E, listener: (...event: Events[E]) => void): this;
  off<E extends keyof Events>(name: E, listener: (...event: Events[E]) => void): this;
  addListener<E extends keyof Events>(name: E, listener: (...event: Events[E]) => void): this;
  removeListener<E extends keyof Events>(name: E, listener: (...event: Events[E]) => void): this;
}

/** The same as new Client(options). */
export function open(options?: Options): Client;

/** What went wrong. message is the relay's own words where it has some. */
export class PgheraldError extends Error {
  readonly code:
    | "EACCES" | "E2BIG" | "EBADMSG" | "EBUSY" | "ECANCELED" | "EDQUOT" | "EILSEQ" | "EINVAL" | "EMSGSIZE"
    | "ENAMETOOLONG" | "ENOBUFS" | "ENOENT" | "ENXIO" | "EPROTO" | "EREMOTEIO" | "ESHUTDOWN" | "ETIMEDOUT";
}
