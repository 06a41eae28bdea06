package policy

import (
	"fmt"
	"strings"

	"github.com/portico-ingress/portico/router/diag"
)

// ReasonForeignSecret is the reason of a problem with a Secret of another
// namespace.
const ReasonForeignSecret diag.Reason = "SecretOfAnotherNamespace"

// Protocol is what is spoken to a backend.
type Protocol uint8

// The protocols. What a Service port says counts where an Ingress says nothing;
// where neither does, it is HTTP.
const (
	ProtocolDefault Protocol = iota // not said
	HTTP                            // HTTP/1.1 in plaintext
	HTTPS                           // HTTP/1.1 over TLS
	GRPC                            // HTTP/2 in plaintext, with prior knowledge
	GRPCS                           // HTTP/2 over TLS
)

var protocolNames = [...]string{"", "HTTP", "HTTPS", "GRPC", "GRPCS"}

// String returns the name that the annotation backend-protocol uses.
func (p Protocol) String() string { return protocolNames[p] }

// Secure reports whether it is spoken over TLS.
func (p Protocol) Secure() bool { return p == HTTPS || p == GRPCS }

// HTTP2 reports whether it is HTTP/2.
func (p Protocol) HTTP2() bool { return p == GRPC || p == GRPCS }

// Or returns p, or def if p is not said.
func (p Protocol) Or(def Protocol) Protocol {
	if p == ProtocolDefault {
		return def
	}
	return p
}

// appProtocols are the values of a Service port's appProtocol that say what is
// spoken: the standard ones of Kubernetes (KEP-3726) and IANA's names.
var appProtocols = map[string]Protocol{
	"": ProtocolDefault, "http": HTTP, "https": HTTPS, "grpc": GRPC, "grpcs": GRPCS,
	"kubernetes.io/h2c": GRPC, "kubernetes.io/ws": HTTP, "kubernetes.io/wss": HTTPS,
}

// AppProtocols names the values that ParseAppProtocol knows.
const AppProtocols = "http, https, grpc, grpcs, kubernetes.io/h2c, kubernetes.io/ws and kubernetes.io/wss"

// ParseAppProtocol reads a Service port's appProtocol, without case as IANA's
// names are. False: it is not known.
func ParseAppProtocol(s string) (Protocol, bool) {
	p, ok := appProtocols[strings.ToLower(s)]
	return p, ok
}

// Backend is how the endpoints behind a route are spoken to.
type Backend struct {
	// Protocol goes before what the Service port says.
	Protocol Protocol
	// Secret is the name, in the namespace of the Ingress, of the Secret with
	// the CA (ca.crt) that the backend's certificate is verified against, and
	// with the client certificate (tls.crt, tls.key) that it is shown. Empty:
	// none of both.
	Secret string
	// Name is the name in the backend's certificate, and that it is asked for
	// (SNI). Empty: the Service's DNS name.
	Name string
	// Verify: On demands a CA, Off ignores it. Default: where there is one.
	Verify Switch
}

// text lists what differs from the default.
func (b Backend) text() []string {
	var parts []string
	add := func(key, value string) {
		if value != "" {
			parts = append(parts, key+"="+value)
		}
	}
	add("backend-protocol", b.Protocol.String())
	add("proxy-ssl-secret", b.Secret)
	add("proxy-ssl-name", b.Name)
	if b.Verify != Default {
		add("proxy-ssl-verify", b.Verify.String())
	}
	return parts
}

func (b *Backend) setProtocol(v string) error {
	for p := HTTP; p <= GRPCS; p++ {
		if strings.EqualFold(v, p.String()) {
			b.Protocol = p
			return nil
		}
	}
	return fmt.Errorf("%q is not a protocol that is spoken to backends", v)
}

// setSecret takes "name" and "namespace/name"; Local settles the namespace.
func (b *Backend) setSecret(v string) error {
	namespace, name, qualified := strings.Cut(v, "/")
	if v == "" || qualified && (namespace == "" || name == "") || strings.ContainsAny(name, "/ \t") {
		return fmt.Errorf("%q names no Secret", v)
	}
	b.Secret = v
	return nil
}

func (b *Backend) setName(v string) error {
	if v == "" || len(v) > 253 || strings.ContainsFunc(v, notInName) {
		return fmt.Errorf("%q is not a DNS name", v)
	}
	b.Name = strings.ToLower(strings.TrimSuffix(v, "."))
	return nil
}

func notInName(r rune) bool {
	return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
}

func (b *Backend) setVerify(v string) error {
	switch strings.ToLower(v) {
	case "on", "true":
		b.Verify = On
	case "off", "false":
		b.Verify = Off
	default:
		return fmt.Errorf(`%q is neither "on" nor "off"`, v)
	}
	return nil
}

// Local leaves the bare name of a Secret that lies in the given namespace, the
// Ingress's. A Secret of another one is not for this Ingress: its routes are
// refused, and the problem says so.
func (p *Policy) Local(namespace string) (diag.Problem, bool) {
	ns, name, qualified := strings.Cut(p.Backend.Secret, "/")
	if !qualified {
		return diag.Problem{}, true
	}
	if ns == namespace {
		p.Backend.Secret = name
		return diag.Problem{}, true
	}
	secret := p.Backend.Secret
	p.Backend.Secret = ""
	p.Refuse = "the Secret for the backends is in another namespace"
	return diag.Problem{
		Field: "metadata.annotations", Reason: ReasonForeignSecret,
		Message: fmt.Sprintf("proxy-ssl-secret names Secret %s, which is in another namespace; the routes of this Ingress answer 503", secret),
		Remedy:  "Copy the Secret into namespace " + namespace + " and name it there",
	}, false
}
