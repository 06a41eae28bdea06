package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/portico-ingress/portico/router/tcp"
)

// socketOf returns the socket beneath TLS and a PROXY header; nil: there is none.
func socketOf(nc net.Conn) *net.TCPConn {
	switch c := nc.(type) {
	case *net.TCPConn:
		return c
	case *tcp.Conn:
		return c.TCPConn
	case interface{ NetConn() net.Conn }:
		return socketOf(c.NetConn())
	case interface{ TCPConn() (*net.TCPConn, bool) }:
		tcp, _ := c.TCPConn()
		return tcp
	}
	return nil
}

// lookWait is more than enough to read what is readable.
const lookWait = time.Second

// readable reports whether there is something on the socket that nobody has read yet,
// be it its end.
func readable(nc net.Conn) bool {
	tc := socketOf(nc)
	return tc != nil && tcp.Readable(tc)
}

// farewell is the connection below TLS where it can hold the last bytes back, so that
// they leave together with the close_notify.
type farewell interface {
	Hold(stall time.Duration)
	Release()
}

// farewellOf returns nil for a connection that holds nothing back.
func farewellOf(nc net.Conn) farewell {
	if tc, ok := nc.(*tls.Conn); ok {
		f, _ := tc.NetConn().(farewell)
		return f
	}
	return nil
}

// closeWrite ends the sending half of a connection.
func closeWrite(nc net.Conn) error {
	if c, ok := nc.(interface{ CloseWrite() error }); ok {
		err := c.CloseWrite()
		if f := farewellOf(nc); f != nil {
			f.Release()
		}
		return err
	}
	if tc := socketOf(nc); tc != nil { // behind a PROXY header
		return tc.CloseWrite()
	}
	return errors.ErrUnsupported
}
