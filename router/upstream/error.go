package upstream

import (
	"context"
	"errors"
	"net"
	"os"
)

// Kind is what went wrong on the way to a backend.
type Kind uint8

// The kinds of Error.
const (
	NoEndpoint  Kind = iota // the pool has nothing to serve from
	Unreachable             // no endpoint could be connected to
	Timeout                 // a backend took too long to connect or to answer
	Broken                  // the backend closed the connection or sent nonsense
	BodyFailed              // the client's request body failed; Err is what reading it gave
	Canceled                // the context ended
	Overloaded              // every endpoint has as many requests in flight as it may
	Exhausted               // the process has no descriptor left for a connection
	Unverified              // the backend is not who it must be, or nobody can tell
)

// Error is a request that got no response.
type Error struct {
	Kind     Kind
	Endpoint string // the last one tried; empty if none was
	Attempts int    // endpoints tried
	Err      error
	// dialing tells that no connection was made, so nothing was sent.
	dialing bool
	// mismatch tells that the endpoint did not suit the way in which it was
	// spoken to: its certificate, or its protocols. That may be the fault of
	// who said how, so it is not held against the endpoint.
	mismatch bool
	// replay tells that the request may be sent again on a new connection:
	// no byte of a response came, and either nothing was sent or sending twice
	// does no harm.
	replay bool
	// unseen tells that the backend has said that it did nothing with it.
	unseen bool
}

// Error implements error.
func (e *Error) Error() string {
	if e.Endpoint == "" {
		return e.Err.Error()
	}
	return e.Endpoint + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrTruncated is returned by Response.Read when the backend ends the response
// before its end.
var ErrTruncated = errors.New("the backend closed the connection in the middle of the response")

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout()
}
