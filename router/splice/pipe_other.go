//go:build !linux

package splice

import (
	"errors"
	"net"
)

// Pipe is Linux's.
type Pipe struct{}

// Borrow returns nil: there is none to be had.
func Borrow() *Pipe { return nil }

// GiveBack is never called.
func (*Pipe) GiveBack() {}

// Held is never called.
func (*Pipe) Held() int { return 0 }

// Fill is never called.
func (*Pipe) Fill(*net.TCPConn, int64) (int, error) { return 0, errors.ErrUnsupported }

// Drain is never called.
func (*Pipe) Drain(*net.TCPConn) (int, error) { return 0, errors.ErrUnsupported }
