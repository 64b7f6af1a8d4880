import json

import jinja2
import requests

print(json.dumps([jinja2.Template("{{ a }}").render(a=1), requests.__version__]))
