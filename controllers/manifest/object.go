package manifest

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/portico-ingress/portico/router/diag"
)

// object is one object on its way from node to Set.
type object struct {
	*collector
	place  place
	typ    typeMeta
	ref    diag.Ref
	faulty bool
}

// fault reports what is wrong with the object at a node.
func (o *object) fault(n *yaml.Node, field, message, remedy string) {
	o.report(o.place.before+n.Line, field, message, remedy)
}

// invalid reports what is wrong with a field that was decoded.
func (o *object) invalid(field, message, remedy string) {
	o.report(o.place.line(field), field, message, remedy)
}

func (o *object) report(line int, field, message, remedy string) {
	o.faulty = true
	o.faults = append(o.faults, Fault{File: o.name, Line: line, Object: o.ref,
		Field: field, Message: message, Remedy: remedy})
}

// kinds are the kinds that Portico reads, by name, with their current version.
var kinds = map[string]typeMeta{
	"Ingress":       {"networking.k8s.io/v1", "Ingress"},
	"IngressClass":  {"networking.k8s.io/v1", "IngressClass"},
	"Service":       {"v1", "Service"},
	"Secret":        {"v1", "Secret"},
	"Endpoints":     {"v1", "Endpoints"},
	"EndpointSlice": {"discovery.k8s.io/v1", "EndpointSlice"},
}

// decode reads the object if its kind is one of ours, and counts it otherwise.
func (o *object) decode() {
	current, known := kinds[o.typ.kind]
	// Other groups may have kinds of the same name; the core group has not.
	if !known || !slices.Contains([]string{current.group(), "extensions", ""}, o.typ.group()) {
		o.set.Ignored[o.typ.apiVersion+" "+o.typ.kind]++
		return
	}
	o.identify()
	switch o.typ {
	case typeMeta{"networking.k8s.io/v1", "Ingress"}:
		read(o, &o.set.Ingresses, nil, validateIngress)
	case typeMeta{"networking.k8s.io/v1beta1", "Ingress"}:
		readAs(o, &o.set.Ingresses, fromNetworkingV1beta1)
	case typeMeta{"extensions/v1beta1", "Ingress"}:
		readAs(o, &o.set.Ingresses, fromExtensionsV1beta1)
	case typeMeta{"networking.k8s.io/v1", "IngressClass"}, typeMeta{"networking.k8s.io/v1beta1", "IngressClass"}:
		// The two versions have the same fields.
		read(o, &o.set.Classes, nil, validateIngressClass)
	case typeMeta{"v1", "Service"}:
		read(o, &o.set.Services, defaultService, validateService)
	case typeMeta{"discovery.k8s.io/v1", "EndpointSlice"}:
		read(o, &o.set.Slices, defaultEndpointSlice, validateEndpointSlice)
	case typeMeta{"v1", "Endpoints"}:
		read(o, &o.set.Endpoints, defaultEndpoints, validateEndpoints)
	case typeMeta{"v1", "Secret"}:
		read(o, &o.set.Secrets, defaultSecret, validateSecret)
	default:
		o.invalid("apiVersion", fmt.Sprintf("%s %s is not a version that is read here", o.typ.apiVersion, o.typ.kind),
			"write apiVersion: "+current.apiVersion)
	}
}

// identify finds the object's name before anything can be wrong with it, so
// that every fault can say whose it is.
func (o *object) identify() {
	meta := child(o.place.node, "metadata")
	o.ref.Kind = o.typ.kind
	if o.typ.kind != "IngressClass" {
		o.ref.Namespace = metav1.NamespaceDefault
		if v := child(meta, "namespace"); v != nil && isText(v) && v.Value != "" {
			o.ref.Namespace = v.Value
		}
	}
	if v := child(meta, "name"); v != nil && isText(v) {
		o.ref.Name = v.Value
	}
}

// claim takes the object's name in the set. It fails if there is none, or if
// another object has it.
func (o *object) claim() {
	if o.ref.Name == "" {
		if !o.faulty || child(child(o.place.node, "metadata"), "name") == nil {
			o.invalid("metadata.name", "is missing", "give the object a name (generateName needs an apiserver)")
		}
		return
	}
	o.check("metadata.name", o.ref.Name, validation.IsDNS1123Subdomain)
	if o.ref.Namespace != "" {
		o.check("metadata.namespace", o.ref.Namespace, validation.IsDNS1123Label)
	}
	if first, taken := o.set.places[o.ref]; taken {
		o.invalid("metadata.name", fmt.Sprintf("the object is already defined in %s:%d", first.file, first.line("metadata.name")),
			"remove one of the two, or rename it")
		return
	}
	o.set.places[o.ref] = o.place
}

// read decodes an object of type T, fills in defaults, validates it, and adds
// it to list if nothing is wrong with it.
func read[T any, P interface {
	*T
	metav1.Object
}](o *object, list *[]P, defaults func(P), validate func(*object, P)) {
	obj, ok := decodeInto[T, P](o)
	if !ok {
		return
	}
	if defaults != nil {
		defaults(obj)
	}
	if validate(o, obj); !o.faulty {
		*list = append(*list, obj)
	}
}

// readAs decodes an Ingress of an old version T, and converts it.
func readAs[T any, P interface {
	*T
	metav1.Object
}](o *object, list *[]*networkingv1.Ingress, convert func(P) *networkingv1.Ingress) {
	old, ok := decodeInto[T, P](o)
	if !ok {
		return
	}
	ing := convert(old)
	if validateIngress(o, ing); !o.faulty {
		*list = append(*list, ing)
		o.old.add(o, ing)
	}
}

// decodeInto decodes strictly. It reports false if the object's shape is
// wrong: then there is nothing to validate.
func decodeInto[T any, P interface {
	*T
	metav1.Object
}](o *object) (P, bool) {
	obj := P(new(T))
	d := decoder{fault: o.fault, structs: o.structs, secret: o.ref.Kind == "Secret"}
	d.object(o.place.node, obj)
	o.claim()
	if o.faulty {
		return nil, false
	}
	obj.SetNamespace(o.ref.Namespace)
	return obj, true
}
