package explain

import (
	"fmt"
	"time"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Source is what is served, or would be.
type Source struct {
	Table *router.Table
	State func(upstream.Key) *upstream.State // nil result: nothing is known of the pool
	Certs *certstore.Store
	// Credentials returns what a Secret holds for backends, nil if that is of
	// no use.
	Credentials func(upstream.SecretRef) *upstream.Credentials
	// RequireVerification is upstream.Options.RequireVerification.
	RequireVerification bool
	// Aside returns what else there is to know about a host and an Ingress
	// ("namespace/name", empty without a route), in sentences: Ingresses that
	// name the host and are not served, problems of the one that was chosen.
	// May be nil.
	Aside func(host, ingress string) []string
	Now   func() time.Time // nil: time.Now
}

// Report is the explanation of one request.
type Report struct {
	Request *view.Request
	// Matched tells that the request got as far as the table.
	Matched     bool
	Explanation router.Explanation
	Verdict     router.Verdict
	// Status is what the proxy itself would answer; 0 if a backend answers.
	Status int
	Answer string // what happens, in a sentence
	// Pool is what is known of the backend; nil without a route.
	Pool *upstream.State
	// Speaks is what is spoken to the backend; empty without a route.
	Speaks string
	Aside  []string // see Source

	insecure string // why nothing may be sent to the backend
	// ServerName and Certificate belong to the TLS connection; Certificate is
	// nil for plaintext.
	ServerName  string
	Certificate *Certificate
}

// Certificate says what the handshake serves and why.
type Certificate struct {
	Source   string   `json:"source"`
	Entry    string   `json:"entry,omitempty"`
	Names    []string `json:"names"`
	Issuer   string   `json:"issuer"`
	NotAfter string   `json:"notAfter"`
	Why      string   `json:"why"`
	Warning  string   `json:"warning,omitempty"`
}

// Routed reports whether the request goes to a ready endpoint.
func (r *Report) Routed() bool { return r.Status == 0 }

// Explain explains one request. The error says what is wrong with the input.
func Explain(src Source, in Input) (*Report, error) {
	req, err := in.request()
	if err != nil {
		return nil, err
	}
	rep := &Report{Request: req.Request}
	if req.Scheme == "https" {
		rep.certificate(src, req.serverName)
	}
	in.Trust.Identify(rep.Request)
	if rep.Status, rep.Answer = refused(req); rep.Status != 0 {
		return rep, nil
	}
	rep.Matched = true
	rep.Explanation = src.Table.Explain(rep.Request)
	d := rep.Explanation.Decision
	rep.Verdict = d.Verdict(rep.Request)
	if d.Route != nil {
		if rep.Pool = src.State(upstream.Key(d.Route.Backend)); rep.Pool == nil {
			rep.Pool = &upstream.State{Reason: "nothing is known of " + d.Route.Backend.String()}
		}
		rep.settle(src, d.Route)
	}
	rep.Status, rep.Answer = rep.answer()
	if src.Aside != nil {
		rep.Aside = src.Aside(rep.Request.Host, rep.ingress())
	}
	return rep, nil
}

// settle says what is spoken to the backend, as the engine will.
func (rep *Report) settle(src Source, r *router.Route) {
	b := &r.Policy.Backend
	var credentials *upstream.Credentials
	if b.Secret != "" {
		credentials = src.Credentials(upstream.SecretRef{Namespace: r.Backend.Namespace, Name: b.Secret})
	}
	protocol, verify, why := upstream.Settle(rep.Pool, b, credentials, src.RequireVerification)
	rep.Speaks, rep.insecure = protocol.String(), why
	if protocol.Secure() && !verify {
		rep.Speaks += ", without verifying the backend"
	}
}

// ingress is the Ingress that takes the request, "" without one.
func (rep *Report) ingress() string {
	if r := rep.Explanation.Decision.Route; r != nil {
		return r.Ingress
	}
	return ""
}

// refused says what the engine answers to a request that it does not even
// match; 0 if it does.
func refused(r *parsed) (status int, text string) {
	switch {
	case r.refusal != "":
		return 400, "refused: " + r.refusal
	case router.RefusesMethod(r.Method):
		return 405, "refused: " + r.Method + " is not served"
	case router.RefusesUpgrade(r.Fields):
		return 400, "refused: an upgrade to h2c is not served"
	}
	return 0, ""
}

func (rep *Report) certificate(src Source, serverName string) {
	rep.ServerName = serverName
	now := time.Now
	if src.Now != nil {
		now = src.Now
	}
	sel := src.Certs.Select(serverName)
	c := &Certificate{
		Source: sel.Source, Entry: sel.Entry, Names: sel.Certificate.Names(), Issuer: sel.Certificate.Leaf.Issuer.String(),
		NotAfter: sel.Certificate.Leaf.NotAfter.UTC().Format(time.RFC3339),
		Why:      sel.Why, Warning: sel.Certificate.Validity(now()),
	}
	switch {
	case sel.Why != "":
		c.Why = "the default certificate: " + sel.Why
	case sel.Entry == serverName:
		c.Why = "spec.tls names the host"
	default:
		c.Why = "spec.tls names the wildcard " + sel.Entry
	}
	rep.Certificate = c
	rep.Request.Conn.TLS = &view.TLS{ServerName: serverName, Policy: certstore.DefaultPolicy, Covers: sel.Certificate.Covers}
}

// answer says what becomes of the request, in the words of the engine's
// verdict.
func (rep *Report) answer() (status int, text string) {
	d := rep.Explanation.Decision
	switch rep.Verdict {
	case router.Misdirected:
		return 421, "refused: the connection was made for another host"
	case router.NotFound:
		return 404, "no route takes the request"
	case router.Redirect:
		return 308, "redirected to https: the host has TLS; portico.dev/ssl-redirect: \"false\" on the Ingress turns this off"
	case router.Refused:
		return 503, "refused: " + d.Route.Policy.Refuse
	}
	if rep.insecure != "" {
		return 503, "refused: " + rep.insecure
	}
	if len(rep.Pool.Usable()) == 0 {
		return 503, rep.Pool.Reason
	}
	return 0, fmt.Sprintf("forwarded to %s, one of %d", d.Route.Backend, len(rep.Pool.Usable()))
}
