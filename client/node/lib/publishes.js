// The requests to publish that have no answer yet: bounded in bytes, and kept until they are
// answered so that they can be sent again. All get the same time, so they are ordered by deadline
// as well as by id.

// Bytes that a request counts beside its strings.
const COST = 128;

export class Publishes {
  #requests = new Map(); // by id, oldest first
  #unsent = new Map();   // those of them that were not sent on this connection
  #bytes = 0;
  #limit;

  constructor(limit) {
    this.#limit = limit;
  }

  // Returns false if the limit is reached.
  add(request) {
    request.cost = COST;
    for (const element of request.frame) if (typeof element === "string") request.cost += Buffer.byteLength(element);
    if (this.#bytes + request.cost > this.#limit) return false;
    this.#bytes += request.cost;
    this.#requests.set(request.id, request);
    this.#unsent.set(request.id, request);
    return true;
  }

  // The next to send, which counts as sent then. undefined: none.
  next() {
    for (const request of this.#unsent.values()) {
      this.#unsent.delete(request.id);
      return request;
    }
    return undefined;
  }

  // Removes the one that was answered. undefined: no such was sent.
  answered(id) {
    return this.#unsent.has(id) ? undefined : this.take(id);
  }

  take(id) {
    const request = this.#requests.get(id);
    if (!request) return undefined;
    this.#requests.delete(id);
    this.#unsent.delete(id);
    this.#bytes -= request.cost;
    return request;
  }

  // The one whose deadline is next.
  get oldest() {
    for (const request of this.#requests.values()) return request;
    return undefined;
  }

  // The connection is lost: what was sent and not answered goes first on the next one.
  restart() {
    this.#unsent = new Map(this.#requests);
  }
}
