//go:build !linux

package proxy

import (
	"errors"
	"net"
)

// lot is Linux's: elsewhere connections keep their goroutines.
type lot struct{}

func (*lot) enter(*parking) error { return errors.ErrUnsupported }
func (*lot) leave(*parking) bool  { return false }
func (*lot) forget(*net.TCPConn)  {}
