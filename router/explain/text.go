package explain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/upstream"
)

// WriteText writes the report for people.
func (rep *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r, d := rep.Request, rep.Explanation.Decision
	fmt.Fprintf(&b, "%s %s://%s%s from %s\n", r.Method, r.Scheme, cmp.Or(r.Host, "(no host)"), r.Target(), r.Client)
	if rep.Matched {
		rep.writeHosts(&b)
		rep.writePaths(&b)
		rep.writeBackend(&b, d.Route)
	}
	rep.writeCertificate(&b)
	for i, line := range rep.Aside {
		if i == 0 {
			b.WriteString("\nNote\n")
		}
		fmt.Fprintf(&b, "   %s\n", line)
	}
	b.WriteString("\n=> ")
	if rep.Status != 0 {
		fmt.Fprintf(&b, "%d: ", rep.Status)
	}
	b.WriteString(rep.Answer + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func mark(chosen bool) string {
	if chosen {
		return "->"
	}
	return "  "
}

func (rep *Report) writeHosts(b *strings.Builder) {
	b.WriteString("\nHost\n")
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, s := range rep.Explanation.Hosts {
		fmt.Fprintf(tw, "%s %s\t%s\n", mark(s.Chosen), s.Entry, s.Why)
	}
	_ = tw.Flush()
}

func (rep *Report) writePaths(b *strings.Builder) {
	b.WriteString("\nPath (longest first, Exact before Prefix)\n")
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, p := range rep.Explanation.Paths {
		fmt.Fprintf(tw, "%s %s %s\t%s\t%s\n", mark(p.Chosen), p.Route.Type, p.Route.Path, p.Why, p.Route.Ingress)
	}
	_ = tw.Flush()
	if len(rep.Explanation.Paths) == 0 {
		b.WriteString("   no rule has a path for this host\n")
	}
	fmt.Fprintf(b, "   default backend: %s\n", rep.Explanation.Default)
}

func (rep *Report) writeBackend(b *strings.Builder, route *router.Route) {
	if route == nil {
		return
	}
	origin := cmp.Or(route.Ingress, "the flag")
	fmt.Fprintf(b, "\nRoute\n   Ingress %s, %s\n", origin, route.Field)
	if p := route.Policy.String(); p != "" {
		fmt.Fprintf(b, "   policy %s\n", p)
	}
	fmt.Fprintf(b, "\nBackend\n   Service %s, port %s\n", route.Service, route.Backend.Port)
	if rep.Speaks != "HTTP" {
		fmt.Fprintf(b, "   speaks %s\n", rep.Speaks)
	}
	for _, e := range rep.Pool.Endpoints {
		fmt.Fprintf(b, "   %s\n", endpointText(e))
	}
	if rep.Pool.Reason != "" {
		fmt.Fprintf(b, "   %s\n", rep.Pool.Reason)
	}
	if rep.Pool.Remedy != "" {
		fmt.Fprintf(b, "   %s\n", rep.Pool.Remedy)
	}
}

func endpointText(e upstream.Endpoint) string {
	text := address(e) + " " + condition(e)
	if e.Target != "" {
		text += ", " + e.Target
	}
	if e.Node != "" {
		text += ", node " + e.Node
	}
	return text
}

func address(e upstream.Endpoint) string {
	if e.Host != "" {
		return fmt.Sprintf("%s:%d", e.Host, e.Port)
	}
	return e.Addr.String()
}

func condition(e upstream.Endpoint) string {
	switch {
	case e.Ready:
		return "ready"
	case e.Serving && e.Terminating:
		return "terminating, still serving"
	case e.Terminating:
		return "terminating"
	}
	return "not ready"
}

func (rep *Report) writeCertificate(b *strings.Builder) {
	c := rep.Certificate
	if c == nil {
		return
	}
	fmt.Fprintf(b, "\nCertificate (SNI %s)\n   %s: %s\n", rep.ServerName, c.Source, c.Why)
	fmt.Fprintf(b, "   for %s, until %s, issued by %s\n", strings.Join(c.Names, ", "), c.NotAfter, c.Issuer)
	if c.Warning != "" {
		fmt.Fprintf(b, "   warning: it %s\n", c.Warning)
	}
}

// WriteJSON writes the report for programs.
func (rep *Report) WriteJSON(w io.Writer) error {
	d := rep.Explanation.Decision
	out := jsonReport{
		Method: rep.Request.Method, Scheme: rep.Request.Scheme, Host: rep.Request.Host, Path: rep.Request.Path,
		Status: rep.Status, Answer: rep.Answer, Routed: rep.Routed(), Default: rep.Explanation.Default, Certificate: rep.Certificate, Notes: rep.Aside,
	}
	for _, h := range rep.Explanation.Hosts {
		out.Hosts = append(out.Hosts, jsonStep{Entry: h.Entry, Chosen: h.Chosen, Why: h.Why})
	}
	for _, p := range rep.Explanation.Paths {
		out.Paths = append(out.Paths, jsonStep{Entry: p.Route.Type.String() + " " + p.Route.Path, Ingress: p.Route.Ingress, Field: p.Route.Field, Chosen: p.Chosen, Why: p.Why})
	}
	if d.Route != nil {
		out.Route = &jsonRoute{Ingress: d.Route.Ingress, Field: d.Route.Field, Service: d.Route.Service, Port: d.Route.Backend.Port, Policy: d.Route.Policy.String(), Speaks: rep.Speaks, Reason: rep.Pool.Reason}
		for _, e := range rep.Pool.Endpoints {
			out.Route.Endpoints = append(out.Route.Endpoints, jsonEndpoint{Address: address(e), Condition: condition(e), Target: e.Target, Node: e.Node})
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}

type jsonReport struct {
	Method      string       `json:"method"`
	Scheme      string       `json:"scheme"`
	Host        string       `json:"host"`
	Path        string       `json:"path"`
	Routed      bool         `json:"routed"`
	Status      int          `json:"status,omitempty"`
	Answer      string       `json:"answer"`
	Hosts       []jsonStep   `json:"hosts"`
	Paths       []jsonStep   `json:"paths"`
	Default     string       `json:"default"`
	Route       *jsonRoute   `json:"route,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Notes       []string     `json:"notes,omitempty"`
}

type jsonStep struct {
	Entry   string `json:"entry"`
	Ingress string `json:"ingress,omitempty"`
	Field   string `json:"field,omitempty"`
	Chosen  bool   `json:"chosen"`
	Why     string `json:"why"`
}

type jsonRoute struct {
	Ingress   string         `json:"ingress"`
	Field     string         `json:"field"`
	Service   string         `json:"service"`
	Port      string         `json:"port"`
	Policy    string         `json:"policy,omitempty"`
	Speaks    string         `json:"speaks"`
	Reason    string         `json:"reason,omitempty"`
	Endpoints []jsonEndpoint `json:"endpoints"`
}

type jsonEndpoint struct {
	Address   string `json:"address"`
	Condition string `json:"condition"`
	Target    string `json:"target,omitempty"`
	Node      string `json:"node,omitempty"`
}
