package translate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/upstream"
	"github.com/portico-ingress/portico/tls/certstore"
)

// Certificate translates a Secret: a certificate, or in words why it holds
// none. Any type of Secret with tls.crt and tls.key will do.
func Certificate(s *corev1.Secret) (*certstore.Certificate, string) {
	c, err := certstore.Parse(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err.Error()
	}
	return c, ""
}

// Objects is a whole picture of a cluster or folder.
type Objects struct {
	Ingresses []*networkingv1.Ingress
	Classes   []*networkingv1.IngressClass
	Services  []*corev1.Service
	Slices    []*discoveryv1.EndpointSlice
	//lint:ignore SA1019 the old form is what people write by hand
	Endpoints []*corev1.Endpoints
	Secrets   []*corev1.Secret
}

// Entry is one Ingress that is ours.
type Entry struct {
	Ingress  *router.Ingress
	Problems []diag.Problem
}

// Skipped is one Ingress that is not ours.
type Skipped struct {
	Object diag.Ref
	Hosts  []string // that its rules name, as they are written
	Why    string
}

// World is a whole picture, translated.
type World struct {
	Entries        []Entry
	Skipped        []Skipped
	Pools          map[upstream.Key]*upstream.State // those that Ingresses lead to, and Options' default
	Certificates   map[certstore.SecretRef]*certstore.Certificate
	SecretProblems map[certstore.SecretRef]string // Secrets without a usable certificate
	// Credentials are what the Secrets hold that Ingresses name for their
	// backends; CredentialProblems say of the others why there is nothing.
	Credentials        map[upstream.SecretRef]*upstream.Credentials
	CredentialProblems map[upstream.SecretRef]string
	Problems           []diag.Problem // of objects other than Ingresses
}

// All translates everything at once: folder mode and explain. extra are pools
// wanted besides those of the Ingresses.
func All(opts Options, o *Objects, extra ...upstream.Key) *World {
	w := &World{
		Pools:          map[upstream.Key]*upstream.State{},
		Certificates:   map[certstore.SecretRef]*certstore.Certificate{},
		SecretProblems: map[certstore.SecretRef]string{},

		Credentials:        map[upstream.SecretRef]*upstream.Credentials{},
		CredentialProblems: map[upstream.SecretRef]string{},
	}
	secrets := indexSecrets(o.Secrets)
	classes := NewClasses(opts, o.Classes)
	services := newServiceIndex(o)
	for _, k := range extra {
		w.addPool(opts, services, k)
		w.Problems = append(w.Problems, DefaultBackendProblems(k, w.Pools[k])...)
	}
	for _, in := range o.Ingresses {
		ours, why := classes.Ours(in)
		if !ours {
			w.Skipped = append(w.Skipped, Skipped{Object: Ref(in), Hosts: namedHosts(in), Why: why})
			continue
		}
		ing, problems := Ingress(in)
		for _, k := range Backends(ing) {
			w.addPool(opts, services, k)
		}
		w.addCredentials(secrets, ing)
		problems = append(problems, BackendProblems(opts, ing, known{w})...)
		w.Entries = append(w.Entries, Entry{Ingress: ing, Problems: diag.Sort(problems)})
	}
	for _, s := range o.Secrets {
		ref := certstore.SecretRef{Namespace: s.Namespace, Name: s.Name}
		if c, why := Certificate(s); c != nil {
			w.Certificates[ref] = c
		} else {
			w.SecretProblems[ref] = why
		}
	}
	w.Problems = diag.Sort(w.Problems)
	return w
}

func indexSecrets(secrets []*corev1.Secret) map[upstream.SecretRef]*corev1.Secret {
	out := make(map[upstream.SecretRef]*corev1.Secret, len(secrets))
	for _, s := range secrets {
		out[upstream.SecretRef{Namespace: s.Namespace, Name: s.Name}] = s
	}
	return out
}

// addCredentials reads the Secret that an Ingress names for its backends.
func (w *World) addCredentials(secrets map[upstream.SecretRef]*corev1.Secret, ing *router.Ingress) {
	ref, ok := BackendSecret(ing)
	if !ok {
		return
	}
	s := secrets[ref]
	if s == nil {
		w.CredentialProblems[ref] = "it does not exist"
		return
	}
	if c, why := Credentials(s); c != nil {
		w.Credentials[ref] = c
	} else {
		w.CredentialProblems[ref] = why
	}
}

// known is a World as backends are judged by it.
type known struct{ w *World }

// Pool implements Known.
func (k known) Pool(key upstream.Key) *upstream.State { return k.w.Pools[key] }

// Credentials implements Known.
func (k known) Credentials(ref upstream.SecretRef) (*upstream.Credentials, string) {
	return k.w.Credentials[ref], k.w.CredentialProblems[ref]
}

func namedHosts(in *networkingv1.Ingress) []string {
	var hosts []string
	for _, r := range in.Spec.Rules {
		hosts = append(hosts, r.Host)
	}
	return hosts
}

func (w *World) addPool(opts Options, services *serviceIndex, k upstream.Key) {
	if _, done := w.Pools[k]; done {
		return
	}
	name := objectName{k.Namespace, k.Service}
	state, problems := Pool(opts, k, services.services[name], services.slices[name])
	w.Pools[k] = state
	w.Problems = append(w.Problems, problems...)
}

type objectName struct{ namespace, name string }

// serviceIndex finds Services and their slices by name.
type serviceIndex struct {
	services map[objectName]*corev1.Service
	slices   map[objectName][]*discoveryv1.EndpointSlice
}

func newServiceIndex(o *Objects) *serviceIndex {
	x := &serviceIndex{services: map[objectName]*corev1.Service{}, slices: map[objectName][]*discoveryv1.EndpointSlice{}}
	for _, s := range o.Services {
		x.services[objectName{s.Namespace, s.Name}] = s
	}
	for _, s := range o.Slices {
		name := objectName{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
		x.slices[name] = append(x.slices[name], s)
	}
	for _, e := range o.Endpoints {
		name := objectName{e.Namespace, e.Name}
		if len(x.slices[name]) == 0 { // in a cluster, Endpoints are mirrored into slices
			x.slices[name] = mirror(e)
		}
	}
	return x
}

// mirror turns Endpoints into EndpointSlices, as the EndpointSlice mirroring
// controller does in a cluster.
//
//lint:ignore SA1019 see Objects
func mirror(e *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, subset := range e.Subsets {
		s := &discoveryv1.EndpointSlice{ObjectMeta: e.ObjectMeta, AddressType: discoveryv1.AddressTypeIPv4}
		for _, p := range subset.Ports {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
			if p.Protocol == "" {
				s.Ports[len(s.Ports)-1].Protocol = nil
			}
		}
		add := func(addrs []corev1.EndpointAddress, ready bool) {
			for _, a := range addrs {
				if strings.Contains(a.IP, ":") {
					s.AddressType = discoveryv1.AddressTypeIPv6
				}
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
					Addresses: []string{a.IP}, NodeName: a.NodeName, TargetRef: a.TargetRef,
					Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				})
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
		out = append(out, s)
	}
	return out
}
