package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/router/view"
)

// ingressTranslator collects one Ingress and what is wrong with it.
type ingressTranslator struct {
	in       *networkingv1.Ingress
	out      *router.Ingress
	problems []diag.Problem
}

// Ingress translates one Ingress that is ours. The result is never nil: what
// cannot be used is left out and reported.
func Ingress(in *networkingv1.Ingress) (*router.Ingress, []diag.Problem) {
	t := &ingressTranslator{in: in, out: &router.Ingress{Origin: origin(in)}}
	if p, is := policy.Canary(in.Annotations); is {
		t.report(p.Field, p.Reason, p.Message, p.Remedy)
		return t.out, t.problems
	}
	t.policy()
	for i := range in.Spec.Rules {
		t.rule(&in.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i))
	}
	for i := range in.Spec.TLS {
		t.tls(&in.Spec.TLS[i], fmt.Sprintf("spec.tls[%d]", i))
	}
	if b := in.Spec.DefaultBackend; b != nil {
		const field = "spec.defaultBackend"
		t.out.Default = &router.DefaultBackend{Backend: t.backend(b, field), Field: field}
	}
	return t.out, diag.Sort(t.problems)
}

// Ref names an Ingress in problems.
func Ref(in *networkingv1.Ingress) diag.Ref {
	return diag.Ref{Kind: "Ingress", Namespace: in.Namespace, Name: in.Name, UID: string(in.UID)}
}

func origin(in *networkingv1.Ingress) router.Origin {
	o := router.Origin{Ref: Ref(in), Generation: in.Generation}
	if !in.CreationTimestamp.IsZero() {
		o.Created = in.CreationTimestamp.Unix()
	}
	return o
}

func (t *ingressTranslator) report(field string, reason diag.Reason, message, remedy string) {
	t.problems = append(t.problems, diag.Problem{
		Object: t.out.Origin.Ref, Generation: t.in.Generation, Field: field, Reason: reason, Message: message, Remedy: remedy,
	})
}

func (t *ingressTranslator) policy() {
	p, problems := policy.Parse(t.in.Annotations)
	if foreign, ok := p.Local(t.in.Namespace); !ok {
		problems = append(problems, foreign)
	}
	t.out.Policy = p
	for _, pr := range problems {
		t.report(pr.Field, pr.Reason, pr.Message, pr.Remedy)
	}
}

func (t *ingressTranslator) rule(rule *networkingv1.IngressRule, field string) {
	host, err := ruleHost(rule.Host)
	if err != nil {
		t.report(field+".host", ReasonInvalidHost, fmt.Sprintf("host %q is not served: %v", rule.Host, err), hostRemedy)
		return
	}
	out := router.Rule{Host: host, Field: field}
	if rule.HTTP != nil {
		for i := range rule.HTTP.Paths {
			pathField := fmt.Sprintf("%s.http.paths[%d]", field, i)
			if p, ok := t.path(&rule.HTTP.Paths[i], pathField); ok {
				out.Paths = append(out.Paths, p)
			}
		}
	}
	t.out.Rules = append(t.out.Rules, out)
}

const hostRemedy = `Write a DNS name such as "shop.example.com" or a wildcard for the first label such as "*.example.com", without port`

// ruleHost returns the canonical form of a host in a rule or in spec.tls.
func ruleHost(host string) (string, error) {
	name, wildcard := strings.CutPrefix(host, "*.")
	if strings.Contains(name, "*") {
		return "", fmt.Errorf("a wildcard stands for the whole first label only")
	}
	if strings.ContainsAny(name, ":[]") {
		return "", fmt.Errorf("it must not be an address or have a port")
	}
	canonical, err := view.CanonicalHost(name)
	switch {
	case err != nil:
		return "", err
	case isIPv4(canonical):
		return "", fmt.Errorf("it must be a DNS name, not an address")
	case wildcard && canonical == "":
		return "", fmt.Errorf(`"*." names no domain`)
	case wildcard:
		return "*." + canonical, nil
	}
	return canonical, nil
}

func isIPv4(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, err := strconv.Atoi(last)
	return err == nil && strings.Count(host, ".") == 3
}

func (t *ingressTranslator) path(p *networkingv1.HTTPIngressPath, field string) (router.Path, bool) {
	typ := networkingv1.PathTypeImplementationSpecific
	if p.PathType != nil {
		typ = *p.PathType
	}
	text := p.Path
	if text == "" && typ == networkingv1.PathTypeImplementationSpecific {
		text = "/"
	}
	canonical, err := view.CanonicalPath(encodePath(text))
	if err != nil {
		t.report(field+".path", ReasonInvalidPath, fmt.Sprintf("path %q is not served: %v", p.Path, err), `Write an absolute path such as "/shop"`)
		return router.Path{}, false
	}
	out := router.Path{Path: canonical, Field: field, Backend: t.backend(&p.Backend, field+".backend")}
	switch typ {
	case networkingv1.PathTypeExact:
		out.Type = router.Exact
	case networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific:
		out.Type = router.Prefix
		t.warnRegex(text, field)
	default:
		t.report(field+".pathType", ReasonInvalidPath, fmt.Sprintf("pathType %q does not exist; the path is not served", typ), "Use Exact, Prefix or ImplementationSpecific")
		return router.Path{}, false
	}
	return out, true
}

// encodePath percent-encodes what is not ASCII, as every client does.
func encodePath(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c < 0x80 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// warnRegex reports paths that were written as regular expressions for
// another controller: here they are compared literally.
func (t *ingressTranslator) warnRegex(path, field string) {
	if strings.ContainsAny(path, "(*^$|[") || strings.Contains(path, ".+") {
		t.report(field+".path", ReasonRegexPath,
			fmt.Sprintf("path %q looks like a regular expression and is compared literally, as a prefix", path),
			"Write the prefix itself; regular expressions are not supported")
	}
}

// backend names the pool of a backend. One that cannot be named gets a pool
// that never has endpoints: its requests are answered 503, not handed to a
// shorter path.
func (t *ingressTranslator) backend(b *networkingv1.IngressBackend, field string) router.Backend {
	out := router.Backend{Namespace: t.in.Namespace}
	switch {
	case b.Resource != nil:
		t.report(field+".resource", ReasonInvalidBackend, fmt.Sprintf("backend %s %q is not a Service; its requests are answered 503", b.Resource.Kind, b.Resource.Name), "Name a Service")
	case b.Service == nil || b.Service.Name == "":
		t.report(field+".service", ReasonInvalidBackend, "backend names no Service; its requests are answered 503", "Name a Service and one of its ports")
	case b.Service.Port.Name != "":
		out.Service, out.Port = b.Service.Name, b.Service.Port.Name
	case b.Service.Port.Number > 0 && b.Service.Port.Number <= 65535:
		out.Service, out.Port = b.Service.Name, strconv.Itoa(int(b.Service.Port.Number))
	default:
		t.report(field+".service.port", ReasonInvalidBackend, fmt.Sprintf("Service %s is named without a port; its requests are answered 503", b.Service.Name), "Give port.number or port.name")
	}
	return out
}

func (t *ingressTranslator) tls(entry *networkingv1.IngressTLS, field string) {
	out := router.TLS{Secret: entry.SecretName, Field: field}
	hosts := entry.Hosts
	if len(hosts) == 0 {
		hosts = t.hostsWithoutTLS()
	}
	for i, h := range hosts {
		host, err := ruleHost(h)
		switch {
		case err != nil:
			t.report(fmt.Sprintf("%s.hosts[%d]", field, i), ReasonInvalidHost, fmt.Sprintf("host %q gets no certificate: %v", h, err), hostRemedy)
		case host != "" && !slices.Contains(out.Hosts, host):
			out.Hosts = append(out.Hosts, host)
		}
	}
	if len(out.Hosts) == 0 {
		t.report(field, ReasonTLSWithoutHost, "names no host, and no rule does: its certificate is never served", "List the hosts in spec.tls[].hosts; a certificate for all hosts is given with --default-tls-secret")
		return
	}
	t.out.TLS = append(t.out.TLS, out)
}

// hostsWithoutTLS returns the hosts of the rules that no entry of spec.tls lists.
func (t *ingressTranslator) hostsWithoutTLS() []string {
	var hosts []string
	for _, r := range t.out.Rules {
		listed := slices.ContainsFunc(t.in.Spec.TLS, func(e networkingv1.IngressTLS) bool { return slices.Contains(e.Hosts, r.Host) })
		if !listed {
			hosts = append(hosts, r.Host)
		}
	}
	return hosts
}

// Backends returns the pools that an Ingress leads to, each once, sorted.
func Backends(ing *router.Ingress) []upstream.Key {
	var keys []upstream.Key
	for _, r := range ing.Rules {
		for _, p := range r.Paths {
			keys = append(keys, upstream.Key(p.Backend))
		}
	}
	if ing.Default != nil {
		keys = append(keys, upstream.Key(ing.Default.Backend))
	}
	slices.SortFunc(keys, func(a, b upstream.Key) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(keys)
}

// DefaultBackendProblems reports a pool of --default-backend-service that is
// misconfigured. It is on the Service: no Ingress names it.
func DefaultBackendProblems(k upstream.Key, s *upstream.State) []diag.Problem {
	if !s.Misconfigured {
		return nil
	}
	return []diag.Problem{{
		Object: diag.Ref{Kind: "Service", Namespace: k.Namespace, Name: k.Service}, Reason: ReasonBackendMissing,
		Message: s.Reason + "; requests that no Ingress takes are answered 503",
		Remedy:  "Create it, or give --default-backend-service a Service and port that exist",
	}}
}
