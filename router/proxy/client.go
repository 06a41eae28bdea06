package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// identify settles who the client is, the scheme it used and the request's id.
func (e *Engine) identify(x *exchange) {
	r := &x.req
	x.trusted = e.opts.TrustedProxies.Identify(r)
	r.ID = ""
	if id := r.Fields.Get("X-Request-ID"); x.trusted && len(id) <= 128 && wire.ValidName(id) {
		r.ID = id
	}
	if r.ID == "" {
		r.ID = newID()
	}
}

// introduce returns the fields to forward: the cleaned ones, and what we say of
// the client. Fields of ours come last, after everything was removed that must
// go, so that nothing a client sends can strip or double them.
func (e *Engine) introduce(x *exchange) view.Fields {
	r, fs := &x.req, x.req.Fields
	client := x.peer
	if r.Client != r.Conn.Peer.Addr().Unmap() {
		client = r.Client.String()
	}
	host, port := r.Authority, portOf(r)
	xff := x.peer
	if x.trusted {
		if before := joined(fs, "X-Forwarded-For"); before != "" {
			xff = before + ", " + x.peer
		}
		host = or(first(fs, "X-Forwarded-Host"), host)
		port = or(first(fs, "X-Forwarded-Port"), port)
		fs = fs.DelFunc(func(f view.Field) bool {
			switch c := classify(f.Name); c {
			case requestID:
				return true
			case identity:
				return ours(f.Name)
			}
			return false
		})
	}
	if x.length >= 0 {
		fs = fs.Del("Trailer")
	}
	r.Fields = slices.Grow(fs, 6)
	return append(r.Fields,
		view.Field{Name: "X-Forwarded-For", Value: xff},
		view.Field{Name: "X-Forwarded-Proto", Value: r.Scheme},
		view.Field{Name: "X-Forwarded-Host", Value: host},
		view.Field{Name: "X-Forwarded-Port", Value: port},
		view.Field{Name: "X-Real-IP", Value: client},
		view.Field{Name: "X-Request-ID", Value: r.ID},
	)
}

// ours reports whether introduce sets the field.
func ours(name string) bool {
	for _, n := range [...]string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-IP"} {
		if strings.EqualFold(n, strings.ReplaceAll(name, "_", "-")) {
			return true
		}
	}
	return false
}

// portOf returns the port that the client used: the one it named, else the
// scheme's.
func portOf(r *view.Request) string {
	i := strings.LastIndexByte(r.Authority, ':')
	if port := r.Authority[i+1:]; i >= 0 && port != "" && !strings.HasSuffix(port, "]") {
		return port
	}
	if r.Scheme == "https" {
		return "443"
	}
	return "80"
}

// first returns the first element of a list-valued field, or "".
func first(fs view.Fields, name string) string {
	for s := range fs.Tokens(name) {
		return s
	}
	return ""
}

func joined(fs view.Fields, name string) string {
	out := ""
	for s := range fs.Values(name) {
		if out != "" && s != "" {
			out += ", "
		}
		out += s
	}
	return out
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// newID returns 128 random bits in hexadecimal.
func newID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	var dst [32]byte
	hex.Encode(dst[:], b[:])
	return string(dst[:])
}
