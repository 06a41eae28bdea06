// Package splice moves bytes from socket to socket without copying them, by way of a
// pipe (splice(2)). On systems other than Linux there are no pipes to borrow.
package splice

// From is the size from which on it is worthwhile: below it, copying costs less than
// the additional system calls.
const From = 64 << 10
