"""The page at /: try a text, see what is in service and whether it is well. No build step, nothing from elsewhere.

    GET /            static/index.html; GET /ui/NAME the files beside it
    GET /ui/state    what is counted and followed, now: the page asks every second
    GET /ui/model    the model in service: what it reads and answers, its card and its receipts

Everybody gets the files, which say nothing; what is told of a model needs a key where the server has keys.

assets.py reads the files   state.py counts   evidence.py reads what lies beside a bundle   routing.py has the routes
"""

from serving.web.routing import routes as routes
